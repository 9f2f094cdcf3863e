"""Graphs that behave on the probe's inputs and not on others: stopped, refused in one line."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxadmm
from onnxadmm.bench import Pace, open_session, paced, run, running
from onnxadmm.errors import ModelError, ResourceError
from onnxadmm.memory import held_bytes, limited_memory
from onnxadmm.modules import deadline

SPEC = {
    "version": 1,
    "prune": [{"structure": "channel", "amount": 0.5}],
    "benchmark": {"providers": []},
}


def graph(nodes, initializers=(), outputs=("y",)):
    """Return a two-layer network over x [N, 4], with more nodes that read x."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (4, 6)), ("v", (6, 3)))
    ]
    layers = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"], name="second"),
        # Positive inputs are none that the probe draws; the proof feeds some.
        helper.make_node("ReduceMin", ["x"], ["least"], keepdims=0),
        helper.make_node("Greater", ["least", "zero"], ["positive"]),
    ]
    whole = helper.make_graph(
        [*layers, *nodes],
        "hostile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [*weights, numpy_helper.from_array(np.float32(0), "zero"), *initializers],
    )
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def endless() -> onnx.ModelProto:
    """Return a graph whose Loop never ends where all inputs are positive."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["go"]), helper.make_node("Neg", ["s"], ["t"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("t", TensorProto.FLOAT, []),
        ],
    )
    return graph(
        [helper.make_node("Loop", ["", "positive", "least"], ["z"], body=body)],
        outputs=("y", "z"),
    )


def bomb() -> onnx.ModelProto:
    """Return a graph that asks for 256 TiB where all inputs are positive."""
    huge = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["sizes"], ["many"]),
            helper.make_node("ReduceMax", ["many"], ["a"], keepdims=0),
        ],
        "huge",
        [],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [])],
    )
    small = helper.make_graph(
        [helper.make_node("Identity", ["zero"], ["b"])],
        "small",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [])],
    )
    return graph(
        [helper.make_node("If", ["positive"], ["z"], then_branch=huge, else_branch=small)],
        [numpy_helper.from_array(np.array([1 << 23, 1 << 23], np.int64), "sizes")],
        outputs=("y", "z"),
    )


def sized(op_type) -> onnx.ModelProto:
    """Return a graph that stretches a number to a size that grows with the least of its inputs, above zero."""
    return graph(
        [
            helper.make_node("Relu", ["least"], ["above"]),
            helper.make_node("Mul", ["above", "many"], ["count"]),
            helper.make_node("Cast", ["count"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Add", ["whole", "one"], ["size"]),
            helper.make_node(op_type, ["start", "size"], ["stretched"]),
            helper.make_node("ReduceMax", ["stretched"], ["z"], keepdims=0),
        ],
        [
            numpy_helper.from_array(np.float32(1e14), "many"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array([1], np.float32), "start"),
        ],
        outputs=("y", "z"),
    )


@pytest.mark.parametrize(
    ("model", "said"),
    [(endless, "takes too long: a run was stopped"), (bomb, "GiB of memory|not enough memory")],
)
def test_what_shows_only_on_other_inputs_is_refused(monkeypatch, tmp_path, model, said):
    monkeypatch.setattr(running, "BASE_S", 2.0)
    start = time.monotonic()
    with pytest.raises(ModelError, match=said) as caught:
        onnxadmm.compress(model(), SPEC, output=tmp_path / "out")
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 60
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "failure", "said"),
    [
        (endless, ModelError, "takes too long: a loop was stopped after"),
        (
            partial(sized, "Expand"),
            ResourceError,
            r"training asked for \d+\.0 GiB of memory at once",
        ),
        (partial(sized, "Tile"), ResourceError, r"training asked for .* of memory at once"),
    ],
)
def test_what_shows_only_in_training_is_refused(monkeypatch, tmp_path, model, failure, said):
    monkeypatch.setattr(deadline, "BASE_S", 2.0)
    x = -np.ones((40, 4), np.float32)
    x[30:] = 1.0
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(40) % 3)
    data = {"train": {"inputs": {"x": "d.npz"}, "labels": "d.npz"}, "batch_size": 1}
    spec = {**SPEC, "data": data, "schedule": {"epochs": 1, "retrain": 0}}
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with pytest.raises(failure, match=said):
        onnxadmm.compress(model(), spec, output=tmp_path / "out")
    assert time.monotonic() - start < 60
    assert not list(tmp_path.glob("out/*.onnx"))


def test_a_session_can_be_used_after_a_run_of_it_was_stopped(monkeypatch):
    monkeypatch.setattr(running, "BASE_S", 0.3)
    session = open_session(endless().SerializeToString())
    with paced(Pace(0.0, 4)):
        with pytest.raises(ModelError, match="too long"):
            run(session, ["y"], {"x": np.ones((1, 4), np.float32)})
        (y,) = run(session, ["y"], {"x": -np.ones((1, 4), np.float32)})
    assert y.shape == (1, 3)


def test_the_time_granted_grows_with_the_inputs():
    pace = Pace(2.0, 100)
    one = pace.limit_s({"x": np.zeros(100)})
    assert pace.limit_s({"x": np.zeros(10)}) == one
    assert pace.limit_s({"x": np.zeros(300)}) - running.BASE_S == pytest.approx(
        3 * (one - running.BASE_S)
    )


def test_memory_is_limited_only_during_a_run():
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limited_memory():
        soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
        assert soft >= held_bytes()
        with pytest.raises(MemoryError):
            np.zeros(soft + (1 << 30), np.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
