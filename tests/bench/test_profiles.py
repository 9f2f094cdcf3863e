"""Where the time of a run goes: ONNX Runtime's own profiles, matched with the model that was handed to it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from bench_models import matmuls, rows
from graphs import Builder, networks
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, helper

from onnxadmm.bench import Setting, compare
from onnxadmm.bench.process import WorkerProcess
from onnxadmm.bench.profile import NO_KERNEL, NOT_THESE, PREFERRED, UNSAID, Profile, read_profile
from onnxadmm.bench.regions import WEIGHTED
from onnxadmm.errors import ModelError
from onnxadmm.graph import model_bytes, pin_dims, random_inputs

CPU = Setting("cpu", 2, 1)
LIMIT_S = 60.0


def profile(content, feeds, folder) -> Profile:
    file = folder / "model.onnx"
    file.write_bytes(content)
    with WorkerProcess("net", LIMIT_S) as worker:
        worker.open(file, CPU, trace=folder)
        return worker.trace(feeds)


@given(network=networks())
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_all_time_is_in_the_layers_and_every_weight_is_in_one(network, tmp_path_factory):
    feeds = random_inputs(network, pin_dims(network, 2), np.random.default_rng(0))
    found = profile(model_bytes(network), feeds, tmp_path_factory.mktemp("trace"))
    assert found.run_ms > 0
    assert sum(o.ms for o in found.operators) == pytest.approx(found.run_ms)
    assert sum(x.ms for x in found.layers) == pytest.approx(found.run_ms)
    source = {n.name: n.op_type for n in network.graph}
    named = [name for x in found.layers for name in x.nodes]
    assert len(named) == len(set(named))
    assert set(named) <= set(source)
    assert {n for n, op in source.items() if op in WEIGHTED} <= set(named)
    assert found.fallbacks == ()
    assert Profile.from_plain(found.to_plain()) == found


def test_what_is_fused_is_said(tmp_path):
    b = Builder(0, 3, 16)
    for _ in range(3):
        b.conv(16)
        b.batchnorm()
        b.activation("Relu")
    b.head("flatten")
    model = b.model()
    feeds = random_inputs(model, pin_dims(model, 1), np.random.default_rng(0))
    found = profile(model_bytes(model), feeds, tmp_path)
    (fused,) = [f for f in found.fusions if f.parts == "Conv + BatchNormalization + Relu"]
    assert (fused.into, fused.count) == ("Conv", 3)
    convs = [x for x in found.layers if x.layer.startswith("conv")]
    assert [len(x.nodes) for x in convs] == [3, 3, 3]
    # Why nodes are where they are stands in the session's own log.
    assert "onnxruntime" in (tmp_path / "log.txt").read_text()


def test_the_compared_models_are_profiled_once_a_provider(monkeypatch):
    monkeypatch.setattr("onnxadmm.bench.comparison.LAUNCHES", 1)
    models = {"large": matmuls(20), "small": matmuls(2)}
    first, second = compare(models, [Setting("cpu", 4, 1), CPU], rows, rounds=5, profiles=True)
    assert list(first.profiles) == ["large", "small"]
    assert second.profiles == {}
    times = {n: p.operators[0] for n, p in first.profiles.items()}
    assert {o.operator for o in times.values()} == {"MatMul"}
    assert [o.nodes for o in times.values()] == [20, 2]
    assert times["large"].ms > 3 * times["small"].ms


def test_a_model_that_cannot_be_profiled_is_measured_all_the_same(monkeypatch):
    monkeypatch.setattr("onnxadmm.bench.comparison.LAUNCHES", 1)

    def refuse(*_):
        raise ModelError("model a: no profile")

    monkeypatch.setattr(WorkerProcess, "trace", refuse)
    (found,) = compare({"a": matmuls(2)}, [CPU], rows, rounds=5, profiles=True)
    assert found.measurements["a"].latency.runs > 0
    assert found.profiles == {}
    assert found.unprofiled == {"a": "model a: no profile"}


def test_nodes_without_names_and_those_of_a_branch_are_counted_once(tmp_path):
    """The time of an If holds that of its branch."""
    value = helper.make_tensor_value_info
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "x"], ["b"]), helper.make_node("Sin", ["b"], ["c"])],
        "branch",
        [],
        [value("c", TensorProto.FLOAT, [96, 96])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
            helper.make_node("Cast", ["s"], ["go"], to=TensorProto.BOOL),
            helper.make_node("If", ["go"], ["i"], then_branch=branch, else_branch=branch),
            helper.make_node("Cos", ["i"], ["y"]),
        ],
        "g",
        [value("x", TensorProto.FLOAT, [96, 96])],
        [value("y", TensorProto.FLOAT, [96, 96])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = profile(model.SerializeToString(), rows(96), tmp_path)
    assert [o.operator for o in found.operators if o.operator in {"MatMul", "Sin"}] == []
    assert [x.layer for x in found.layers] == ["s", "go", "i", "y"]
    assert onnx.load(tmp_path / "model.onnx").graph.node[0].name == ""


def event(name, operator, provider, start, took):
    facts = {"op_name": operator, "provider": f"{provider}ExecutionProvider"}
    return {"cat": "Node", "name": name, "ts": start, "dur": took, "tid": 1, "args": facts}


def two_runs():
    """On a GPU with a Resize and a shape's arithmetic left on the CPU; the first run warms up."""
    for begin, took in ((0, 900), (10_000, 20), (20_000, 20)):
        yield {"cat": "Session", "name": "model_run", "ts": begin, "dur": 9 * took, "args": {}}
        nodes = [
            ("conv", "Conv", "CUDA"),
            ("MemcpyToHost", "MemcpyToHost", "CUDA"),
            ("resize", "Resize", "CPU"),
            ("resize2", "Resize", "CPU"),
            ("gather", "Gather", "CPU"),
            ("topk", "TopK", "CPU"),
            ("nms", "NonMaxSuppression", "CPU"),
            ("MemcpyFromHost", "MemcpyFromHost", "CUDA"),
        ]
        for i, (name, operator, provider) in enumerate(nodes):
            yield event(f"{name}_kernel_time", operator, provider, begin + i * took, took)


# The lines are ONNX Runtime's, of several versions.
LOG = """\
2025-09-18 10:26:59.41 [I:onnxruntime:, cuda_execution_provider.cc:2879 GetCapability] CUDA kernel not found in registries for Op type: Resize node name: resize
2020-03-15 12:34:54.82 [W:onnxruntime:Default, cuda_execution_provider.cc:1400 GetCapability] CUDA kernel not supported. Fallback to CPU execution provider for Op type: TopK node name: topk
2023-01-30 12:49:49.50 [I:onnxruntime:OnnxGlobalEnv, fallback_cpu_capability.cc:146 onnxruntime::GetCpuPreferredNodes] ORT optimization- Force fallback to CPU execution for node: gather because the CPU execution path is deemed faster than overhead involved with execution on other EPs  capable of executing this node
""".splitlines()


def test_what_fell_back_is_said_with_its_reason_and_its_price():
    found = read_profile(list(two_runs()), 2, "cuda", log=LOG)
    assert found.run_ms == pytest.approx(8 * 0.02)
    said = {f.operator: f for f in found.fallbacks}
    assert {op: f.reason for op, f in said.items()} == {
        "Resize": NO_KERNEL,
        "Gather": PREFERRED,
        "TopK": NOT_THESE,
        "NonMaxSuppression": UNSAID,
    }
    # The log names one of the two; the other is of the same operator.
    assert (said["Resize"].nodes, said["Resize"].names) == (2, ("resize", "resize2"))
    assert said["Resize"].ms == pytest.approx(0.04)
    assert (found.copies, found.copies_ms) == (2, pytest.approx(0.04))
    assert next(x.layer for x in found.layers) == "conv"


def test_nothing_falls_back_where_the_cpu_was_asked_for():
    found = read_profile(list(two_runs()), 2, "cpu", log=LOG)
    assert found.fallbacks == ()
