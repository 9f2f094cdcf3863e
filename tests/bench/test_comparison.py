"""What a comparison says of models whose cost is known by construction."""

from __future__ import annotations

import tempfile

import numpy as np
import psutil
import pytest
from bench_models import matmuls, rows

from onnxadmm.bench import Comparison, Setting, Unmeasured, available_providers, compare
from onnxadmm.bench.process import Warmth
from onnxadmm.errors import DataError, ModelError, SpecError

CPU = Setting("cpu", 1, 1)


def test_a_model_equals_itself_and_fifty_times_the_work_is_slower():
    small, large = matmuls(4), matmuls(200)
    lines = []
    (found,) = compare(
        {"a": large, "again": large, "small": small}, [CPU], rows, rounds=40, progress=lines.append
    )
    assert isinstance(found, Comparison)
    assert found.setting == CPU
    assert list(found.measurements) == ["a", "again", "small"]
    assert list(found.speedups) == ["again", "small"]

    # A busy machine may cost the interval a percent, never the meaning.
    again = found.speedups["again"]
    assert again.low - 0.02 <= 1 <= again.high + 0.02
    fast = found.speedups["small"]
    assert 8 < fast.low <= fast.ratio <= fast.high < 120

    for measured in found.measurements.values():
        latency = measured.latency
        assert 0 < latency.median_ms <= latency.p90_ms <= latency.p99_ms
        assert len(latency.samples_ms) == 40
        assert latency.throughput_per_s == pytest.approx(1e3 / latency.median_ms)
        assert latency.low_ms < latency.median_ms < latency.high_ms
        assert measured.session_s > 0
        assert measured.first_run_ms > 0
        assert measured.warm_up_runs > 5
        assert measured.peak_device_bytes is None
    # Samples of the small one are loops, long enough for the clock.
    assert found.measurements["small"].latency.runs >= 40 * 5
    # 7.4 MB of weights against 0.15: what the process itself takes is in neither.
    memory = {name: m.peak_memory_bytes for name, m in found.measurements.items()}
    assert 7 << 20 < memory["a"] < 60 << 20
    assert memory["small"] < memory["a"] - (4 << 20)
    assert any("round 40 of 40" in line for line in lines)


def test_files_and_bytes_are_alike(monkeypatch, tmp_path):
    monkeypatch.setattr("onnxadmm.bench.comparison.LAUNCHES", 1)
    path = tmp_path / "model.onnx"
    path.write_bytes(matmuls(4))
    (found,) = compare({"file": path, "bytes": matmuls(4)}, [CPU], rows, rounds=5)
    assert isinstance(found, Comparison)
    assert 0.5 < found.speedups["bytes"].ratio < 2


def test_a_setting_that_cannot_be_measured_leaves_the_others(monkeypatch):
    monkeypatch.setattr("onnxadmm.bench.comparison.LAUNCHES", 1)
    settings = [Setting("cpu", 3, 1), Setting("cuda", 1, 1), CPU]
    wide, cuda, found = compare({"fixed": matmuls(4, batch=1)}, settings, rows, rounds=5)
    assert isinstance(wide, Unmeasured)
    assert "fixed can't run on these inputs" in wide.reason
    if available_providers()["cuda"] is None:
        assert isinstance(cuda, Comparison)
    else:
        assert isinstance(cuda, Unmeasured)
        assert cuda.reason.startswith("cuda: ")
        assert "\n" not in cuda.reason
    assert isinstance(found, Comparison)
    assert found.speedups == {}


def test_a_damaged_model_is_named():
    with pytest.raises(ModelError, match="broken"):
        compare({"fine": matmuls(1), "broken": b"no model"}, [CPU], rows, rounds=5)


def test_nothing_to_compare_and_too_few_rounds_are_refused():
    with pytest.raises(SpecError, match="no models"):
        compare({}, [CPU], rows)
    with pytest.raises(SpecError, match="rounds is 4"):
        compare({"a": matmuls(1)}, [CPU], rows, rounds=4)


def test_a_fault_of_the_data_is_not_taken_for_the_models():
    def feeds(_):
        raise DataError("train.npz: no array 'x'")

    with pytest.raises(DataError, match=r"train\.npz"):
        compare({"a": matmuls(1)}, [CPU], feeds)


@pytest.mark.parametrize("when", ["starting", "round 10"])
def test_an_interrupt_leaves_neither_processes_nor_files(monkeypatch, tmp_path, when):
    monkeypatch.setattr("onnxadmm.bench.comparison.LAUNCHES", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def interrupt(line):
        if when in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare({"a": matmuls(1)}, [CPU], rows, rounds=10, progress=interrupt)
    assert psutil.Process().children() == []
    assert list(tmp_path.iterdir()) == []


def test_the_order_within_rounds_is_drawn_from_the_seed(monkeypatch):
    """Without processes: who was timed when."""
    monkeypatch.setattr("onnxadmm.bench.comparison.WorkerProcess", Fake)
    monkeypatch.setattr("onnxadmm.bench.comparison.choose_cores", lambda *_: [])

    def order(seed):
        Fake.timed = []
        (found,) = compare({"a": b"1", "b": b"2"}, [CPU], rows, rounds=20, seed=seed)
        assert found.speedups["b"].ratio == pytest.approx(2)
        return Fake.timed

    first = order(1)
    assert first == order(1) != order(2)
    assert all(sorted(first[i : i + 2]) == ["a", "b"] for i in range(0, 40, 2))


class Fake:
    timed: list[str] = []  # noqa: RUF012

    def __init__(self, name, limit_s):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def open(self, path, setting, cores):
        assert path.exists()
        return 0.1

    def warm(self, inputs):
        return Warmth(3, 1.0, 16, settled=True)

    def time(self):
        self.timed.append(self.name)
        return np.full(3, 2.0 if self.name == "a" else 1.0)

    def memory(self):
        return 1, None


def test_without_a_setting_no_file_is_made(monkeypatch):
    monkeypatch.setattr("onnxadmm.bench.comparison._files", None)
    assert compare({"a": b"no model"}, [], lambda _: {}) == []
