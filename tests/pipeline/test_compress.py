"""From a model and a spec to a proven, measured, judged result."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from stopping import StopAfter

import onnxadmm
from onnxadmm.bench import open_session
from onnxadmm.errors import (
    CheckpointError,
    DataError,
    Interrupted,
    ResourceError,
    SpecError,
    UnsupportedError,
)
from onnxadmm.pipeline.output import locked
from onnxadmm.progress import Silent
from onnxadmm.report import Report

ONE_SHOT = {
    "version": 1,
    "prune": [{"structure": "channel", "amount": 0.5}],
    "benchmark": {"rounds": 5},
}


UNTIMED = "benchmark.providers=[]"


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def result(workplace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "result"
    made = onnxadmm.compress(workplace / "model.onnx", workplace / "spec.yaml", output=folder)
    return made, folder


def test_the_folder_receives_what_the_contract_promises(result):
    _, folder = result
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "model.onnx",
        "model.float.onnx",
        "report.json",
        "report.html",
        "report.md",
        "report.xml",
        "spec.yaml",
        "checkpoints",
    }
    report = Report.from_json((folder / "report.json").read_bytes())
    assert report.compressed.file_bytes == (folder / "model.onnx").stat().st_size
    for facts, kind in ((report.original, "float32"), (report.compressed, "int8")):
        peak = facts.latency["cpu"].peak_gflops[kind]
        for size, batch in facts.latency["cpu"].batches.items():
            assert batch.gflops == pytest.approx(2e-6 * facts.macs * int(size) / batch.median_ms)
            assert batch.peak_share == pytest.approx(batch.gflops / peak)
    assert report.pruned.file_bytes == (folder / "model.float.onnx").stat().st_size
    weighted = {n.name for n in onnx.load(folder / "model.onnx").graph.node if n.op_type == "Conv"}
    for facts in (report.original, report.pruned, report.compressed):
        latency = facts.latency["cpu"]
        profile = latency.profile
        assert sum(x.ms for x in profile.layers) == pytest.approx(profile.run_ms)
        # A layer keeps its name through cutting and quantization: that lays them side by side.
        assert weighted <= {x.layer for x in profile.layers}
        assert latency.threads == 1
        assert all(b.warm_up_runs and b.first_run_ms for b in latency.batches.values())


def test_channels_are_really_gone_and_the_proof_is_in_the_report(result):
    made, folder = result
    kept = {c.class_name: (c.size, c.kept) for c in made.report.channels if not c.fixed}
    assert sorted(kept.values()) == [(7, 4), (10, 5), (12, 6)]
    shapes = {
        i.name: tuple(i.dims) for i in onnx.load(folder / "model.float.onnx").graph.initializer
    }
    assert (6, 2, 3, 3) in shapes.values()
    assert (5, 6, 3, 3) in shapes.values()
    proof = made.report.verification
    assert proof.passed
    assert proof.cut_vs_masked_max_error <= 1e-5
    assert proof.import_max_error <= 1e-4
    assert proof.samples > 64


def test_the_int8_model_takes_any_batch_and_keeps_the_interface(result, workplace):
    _, folder = result
    before, after = onnx.load(workplace / "model.onnx"), onnx.load(folder / "model.onnx")
    assert before.graph.input == after.graph.input
    assert before.graph.output == after.graph.output
    session = open_session(folder / "model.onnx")
    for n in (1, 7):
        (y,) = session.run(None, {"x": np.zeros((n, 2, 6, 6), np.float32)})
        assert y.shape == (n, 5)


def test_history_metrics_and_ratios_are_those_of_the_run(result):
    made, _ = result
    report = made.report
    assert [e.stage for e in report.history] == ["admm", "admm", "retrain", "retrain"]
    assert [e.epoch for e in report.history] == [1, 2, 3, 4]
    assert all(e.rho and e.primal is not None and e.dual is not None for e in report.history[:2])
    assert report.original.metrics == {"accuracy": 1.0}
    assert report.compressed.metrics["accuracy"] > 0.3
    expected = report.original.parameters / report.compressed.parameters
    assert report.ratios.parameters == pytest.approx(expected)
    assert set(report.ratios.speedup["cpu"]) == {"1", "4"}
    change = report.ratios.metric_changes["accuracy"]
    assert change.low < report.ratios.metrics["accuracy"] < change.high
    assert report.gates[0].passed
    assert made.passed


def test_the_same_inputs_spec_and_seed_give_the_same_bytes(result, workplace, tmp_path):
    _, folder = result
    onnxadmm.compress(
        workplace / "model.onnx",
        workplace / "spec.yaml",
        output=tmp_path / "again",
        overrides=[UNTIMED],
    )
    for name in ("model.onnx", "model.float.onnx"):
        assert digest(folder / name) == digest(tmp_path / "again" / name)
    onnxadmm.compress(
        workplace / "model.onnx",
        workplace / "spec.yaml",
        output=tmp_path / "other",
        overrides=["seed=1", UNTIMED],
    )
    assert digest(folder / "model.float.onnx") != digest(tmp_path / "other" / "model.float.onnx")


@pytest.mark.parametrize("steps", [1, 9, 21, 33, 40, 63])
def test_a_run_that_is_stopped_and_resumed_equals_one_that_was_not(
    steps, result, workplace, tmp_path
):
    _, whole = result
    folder = tmp_path / "out"
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    with pytest.raises(Interrupted):
        onnxadmm.compress(*arguments, output=folder, stop=StopAfter(steps, signal=15))
    assert not (folder / "model.onnx").exists()
    resumed = onnxadmm.compress(*arguments, output=folder, resume=True, overrides=[UNTIMED])
    assert digest(whole / "model.onnx") == digest(folder / "model.onnx")
    assert digest(whole / "model.float.onnx") == digest(folder / "model.float.onnx")
    uninterrupted = Report.from_json((whole / "report.json").read_bytes())
    for a, b in zip(uninterrupted.history, resumed.report.history, strict=True):
        assert a.model_copy(update={"seconds": 0.0}) == b.model_copy(update={"seconds": 0.0})


def test_resuming_with_another_spec_is_refused_by_name(workplace, tmp_path):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    with pytest.raises(Interrupted):
        onnxadmm.compress(*arguments, output=tmp_path / "out", stop=StopAfter(3, signal=15))
    with pytest.raises(CheckpointError, match="the run's spec is not the checkpoint's"):
        onnxadmm.compress(*arguments, output=tmp_path / "out", resume=True, overrides=["seed=5"])


def test_without_data_it_compresses_in_one_shot(workplace):
    made = onnxadmm.compress(workplace / "model.onnx", ONE_SHOT)
    report = made.report
    assert report.history == ()
    assert report.pruned is None
    assert report.verification.passed
    assert report.original.metrics == {}
    assert report.ratios.parameters > 1.5


def test_only_stages_that_the_spec_asks_for_are_announced(workplace):
    class Stages(Silent):
        def __init__(self):
            self.begun = []

        def stage(self, name):
            self.begun.append(name)

    spec = {**ONE_SHOT, "benchmark": {"providers": []}}
    stages = Stages()
    report = onnxadmm.compress(workplace / "model.onnx", spec, progress=stages).report
    assert stages.begun == ["analyse", "project", "cut", "prove"]
    assert [s.name for s in report.stages] == stages.begun


def test_a_graph_in_memory_is_not_changed(workplace):
    model = ir.from_proto(onnx.load(workplace / "model.onnx"))
    before = ir.to_proto(model).SerializeToString()
    onnxadmm.compress(model, ONE_SHOT)
    assert ir.to_proto(model).SerializeToString() == before


def test_unstructured_zeros_survive_retraining_and_quantization(workplace):
    made = onnxadmm.compress(
        workplace / "model.onnx",
        workplace / "spec.yaml",
        overrides=['prune=[{structure: unstructured, amount: 0.75, layers: "conv*"}]', UNTIMED],
    )
    report = made.report
    assert report.compressed.parameters == report.original.parameters
    weights = {
        v.name: v.const_value.numpy()
        for v in made.pruned.graph.initializers.values()
        if v.const_value.numpy().ndim == 4
    }
    for weight in weights.values():
        assert np.count_nonzero(weight) == round(weight.size * 0.25)
    assert any("zero" in w for w in report.warnings)


@pytest.mark.parametrize("augment", [{}, {"augment": {"shift": 0.2, "flip": "horizontal"}}])
def test_distilling_needs_no_labels(workplace, augment):
    made = onnxadmm.compress(
        workplace / "model.onnx",
        {
            "version": 1,
            "data": {
                "train": {"inputs": {"x": str(workplace / "train.npz")}},
                "evaluate": {"inputs": {"x": str(workplace / "test.npz")}},
                **augment,
            },
            "objective": {"loss": "distill"},
            "prune": [{"structure": "channel", "amount": 0.25}],
            "schedule": {"epochs": 1, "retrain": 1},
            "benchmark": {"providers": []},
        },
    )
    assert made.report.original.metrics == {"agreement": 1.0}
    assert made.report.compressed.metrics["agreement"] > 0.3


def test_progressive_steps_tighten_towards_the_end(workplace):
    made = onnxadmm.compress(
        workplace / "model.onnx",
        workplace / "spec.yaml",
        overrides=[
            "schedule.epochs=4",
            "schedule.steps=2",
            "schedule.retrain=0",
            "quantize=[{}]",
            UNTIMED,
        ],
    )
    assert [e.step for e in made.report.history] == [1, 1, 2, 2]
    assert sorted(c.kept for c in made.report.channels if not c.fixed) == [4, 5, 6]


def test_a_gate_that_fails_or_cannot_be_measured_is_not_passed(workplace):
    made = onnxadmm.compress(
        workplace / "model.onnx",
        {**ONE_SHOT, "gates": {"max_file_bytes": 100, "max_drop": {"accuracy": 0.5}}},
    )
    assert not made.passed
    gates = {g.name: g for g in made.report.gates}
    assert not gates["max_file_bytes"].passed
    assert gates["max_drop.accuracy"].value is None
    assert not gates["max_drop.accuracy"].passed


def test_cuda_that_is_not_there_is_one_clear_line(workplace):
    from onnxadmm.bench import available_providers

    if available_providers()["cuda"] is None:
        pytest.skip("this machine has a working CUDA provider")
    made = onnxadmm.compress(
        workplace / "model.onnx",
        {
            **ONE_SHOT,
            "benchmark": {"rounds": 5, "providers": ["cpu", "cuda"]},
            "gates": {"min_speedup": {"cuda": 1.0}},
        },
    )
    assert len(made.report.unmeasured) == 1
    assert "cuda" in made.report.unmeasured[0].reason
    assert not made.passed


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (["prune.0.layers=nosuch"], SpecError, "matches no layer"),
        (["prune.0.layers=matmul*"], SpecError, "graph output"),
        (["quantize.0.layers=nosuch"], SpecError, "match no layer"),
        (["data.train.inputs.x=missing.npz"], DataError, "missing.npz"),
        (["data.train.inputs={z: train.npz}"], SpecError, "'z'"),
        (["objective.output=nosuch"], SpecError, "nosuch"),
        (["data.augment={shift: 0.1, inputs: [z]}"], SpecError, "data.augment.inputs: 'z'"),
    ],
)
def test_what_cannot_be_done_is_said_before_training(workplace, tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        onnxadmm.compress(
            workplace / "model.onnx",
            workplace / "spec.yaml",
            output=tmp_path / "out",
            overrides=changes,
        )
    assert not (tmp_path / "out").exists()


def test_two_runs_in_one_folder_are_refused(workplace, tmp_path):
    with (
        locked(tmp_path / "out"),
        pytest.raises(ResourceError, match=r"another run is using it \(process \d+\)"),
    ):
        onnxadmm.compress(workplace / "model.onnx", ONE_SHOT, output=tmp_path / "out")


def test_the_input_model_is_never_overwritten(workplace, tmp_path):
    (tmp_path / "model.onnx").write_bytes((workplace / "model.onnx").read_bytes())
    with pytest.raises(SpecError, match="overwritten"):
        onnxadmm.compress(tmp_path / "model.onnx", ONE_SHOT, output=tmp_path)


def test_a_model_without_weights_has_nothing_to_compress():
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "none",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3])],
    )
    proto = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    with pytest.raises(UnsupportedError, match="nothing to compress"):
        onnxadmm.compress(proto, ONE_SHOT)


def test_the_report_validates_against_the_published_schema(result):
    import jsonschema

    from onnxadmm.report import report_schema

    _, folder = result
    jsonschema.validate(json.loads((folder / "report.json").read_text()), report_schema())


def test_resuming_a_finished_run_changes_nothing(workplace, tmp_path):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    first = onnxadmm.compress(*arguments, output=tmp_path / "out", overrides=[UNTIMED])
    before = {
        p: (digest(p), p.stat().st_mtime_ns) for p in (tmp_path / "out").rglob("*") if p.is_file()
    }
    again = onnxadmm.compress(*arguments, output=tmp_path / "out", overrides=[UNTIMED], resume=True)
    after = {
        p: (digest(p), p.stat().st_mtime_ns) for p in (tmp_path / "out").rglob("*") if p.is_file()
    }
    assert before == after
    assert again.report == first.report
    assert (
        ir.to_proto(again.model).SerializeToString() == ir.to_proto(first.model).SerializeToString()
    )


def test_a_result_that_was_damaged_is_made_again(workplace, tmp_path):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    onnxadmm.compress(*arguments, output=tmp_path / "out", overrides=[UNTIMED])
    whole = digest(tmp_path / "out" / "model.onnx")
    (tmp_path / "out" / "model.onnx").write_bytes(b"damaged")
    onnxadmm.compress(*arguments, output=tmp_path / "out", overrides=[UNTIMED], resume=True)
    assert digest(tmp_path / "out" / "model.onnx") == whole
