"""What models are timed on: the spec's samples, or random ones that say so."""

from __future__ import annotations

import numpy as np
import pytest

from onnxadmm import bench
from onnxadmm.errors import DataError
from onnxadmm.pipeline.benchmarking import Wishes, benchmark


@pytest.fixture
def fed(monkeypatch):
    """Keep what the models would be fed with, batch size by batch size."""
    found = {}

    def compare(models, settings, feeds, **_):
        found.update({s.batch_size: feeds(s.batch_size) for s in settings})
        return []

    monkeypatch.setattr(bench, "compare", compare)
    return found


def test_a_spec_feeds_its_held_out_samples(workplace, fed):
    model, spec = workplace / "model.onnx", workplace / "spec.yaml"
    done = benchmark([model, model], spec=spec, wishes=Wishes(batch_sizes=[3, 300]))
    held_out = np.load(workplace / "test.npz")["x"]
    assert done.inputs == "data"
    # Both are evaluated on them too; a model is as good as itself, exactly.
    first, second = done.models
    assert first.facts.metrics == second.facts.metrics == {"accuracy": 1.0}
    change = second.ratios.metric_changes["accuracy"]
    assert (change.low, change.high, change.samples) == (0, 0, 256)
    assert np.array_equal(fed[3]["x"], held_out[:3])
    assert np.array_equal(fed[300]["x"], held_out[np.arange(300) % 256])


@pytest.mark.parametrize("with_spec", [True, False])
def test_without_data_inputs_are_random_and_say_so(workplace, fed, tmp_path, with_spec):
    spec = tmp_path / "spec.yaml"
    spec.write_text("{version: 1, prune: [{structure: channel, amount: 0.5}]}")
    done = benchmark([workplace / "model.onnx"], spec=spec if with_spec else None)
    assert done.inputs == "random"
    assert fed[1]["x"].shape == (1, 2, 6, 6)


def test_the_specs_benchmark_is_followed_and_options_are_stronger(workplace, fed, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "{version: 1, prune: [{structure: channel, amount: 0.5}],"
        " benchmark: {batch_sizes: [2, 5], threads: [1, 2], rounds: 7}}"
    )
    found = benchmark([workplace / "model.onnx"], spec=spec)
    assert set(fed) == {2, 5}
    assert found.spec["benchmark"]["threads"] == [1, 2]
    fed.clear()
    found = benchmark([workplace / "model.onnx"], spec=spec, wishes=Wishes(batch_sizes=[9]))
    assert set(fed) == {9}
    assert found.spec["benchmark"]["rounds"] == 7


def test_gates_that_were_not_measured_fail(workplace, fed, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "{version: 1, prune: [{structure: channel, amount: 0.5}],"
        " gates: {min_speedup: {cuda: 1.5}, min_compression: 1}}"
    )
    model = workplace / "model.onnx"
    found = benchmark([model, model], spec=spec, output=tmp_path / "out")
    assert [g.passed for g in found.gates] == [False, True]
    assert found.gates[0].value is None
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        f"benchmark.{kind}" for kind in ("html", "json", "md", "xml")
    }


def test_data_that_does_not_fit_the_model_is_refused(workplace, fed, tmp_path):
    np.savez(tmp_path / "train.npz", x=np.zeros((4, 3, 6, 6), np.float32), y=np.zeros(4, int))
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "{version: 1, prune: [{structure: channel, amount: 0.5}],"
        " data: {train: {inputs: {x: train.npz}, labels: train.npz}}}"
    )
    with pytest.raises(DataError, match="x"):
        benchmark([workplace / "model.onnx"], spec=spec)
    assert fed == {}
