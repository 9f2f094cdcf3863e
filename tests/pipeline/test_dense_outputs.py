"""Outputs that are no single class a sample: texts that put time first, places with classes, values."""

from __future__ import annotations

import numpy as np
import onnx.helper as oh
import onnx_ir as ir
import pytest
from onnx import TensorProto, numpy_helper

import onnxadmm
from onnxadmm.errors import DataError

TIMES, FEATURES, CLASSES = 6, 5, 4


def network(ending, *, time_first):
    """Two layers over every place of a text [N, times, features]."""
    rng = np.random.default_rng(0)
    shapes = {"a": (FEATURES, 16), "b": (16, CLASSES)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32) / 2, n)
        for n, s in shapes.items()
    ]
    nodes = [
        oh.make_node("MatMul", ["x", "a"], ["h"], name="first"),
        oh.make_node("Relu", ["h"], ["r"], name="relu"),
        oh.make_node("MatMul", ["r", "b"], ["z"], name="second"),
        oh.make_node(
            "Transpose", ["z"], ["t"], perm=[1, 0, 2] if time_first else [0, 1, 2], name="turn"
        ),
        oh.make_node(ending, ["t"], ["y"], name="end"),
    ]
    dims = [TIMES, "N", CLASSES] if time_first else ["N", TIMES, CLASSES]
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x", TensorProto.FLOAT, ["N", TIMES, FEATURES])],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, dims)],
        weights,
    )
    return ir.from_proto(
        oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    )


def spec(folder, labels=None, **sections):
    rng = np.random.default_rng(1)
    arrays = {"x": rng.standard_normal((70, TIMES, FEATURES)).astype(np.float32)}
    split = {"inputs": {"x": str(folder / "d.npz") + "#x"}}
    if labels is not None:
        arrays["labels"] = labels
        split["labels"] = str(folder / "d.npz") + "#labels"
    np.savez(folder / "d.npz", **arrays)
    return {
        "version": 1,
        "data": {"train": split, "evaluate": split, "batch_size": 16},
        "prune": [{"structure": "channel", "amount": 0.25, "round_to": 1}],
        "schedule": {"epochs": 1, "retrain": 1},
        "benchmark": {"providers": []},
        **sections,
    }


@pytest.mark.parametrize("time_first", [False, True])
@pytest.mark.parametrize("ending", ["LogSoftmax", "Softmax", "Sigmoid", "Identity"])
def test_a_teacher_is_followed_wherever_the_samples_are(tmp_path, ending, time_first):
    model = network(ending, time_first=time_first)
    report = onnxadmm.compress(model, spec(tmp_path, objective="distill")).report
    assert report.original.metrics["agreement"] == 1
    assert 0.3 < report.compressed.metrics["agreement"] < 1
    # The metric in torch, of the trained network, and in ONNX Runtime, of the written one.
    assert report.history[-1].metric == pytest.approx(
        report.compressed.metrics["agreement"], abs=1e-6
    )


@pytest.mark.parametrize("time_first", [False, True])
def test_every_place_may_have_its_class(tmp_path, time_first):
    model = network("LogSoftmax", time_first=time_first)
    labels = np.random.default_rng(2).integers(0, CLASSES, (70, TIMES))
    report = onnxadmm.compress(model, spec(tmp_path, labels, objective="cross_entropy")).report
    assert 0 < report.compressed.metrics["accuracy"] < 1


@pytest.mark.parametrize(("loss", "kind"), [("cross_entropy", "int64"), ("mse", "float32")])
def test_labels_of_another_shape_are_refused_in_a_line(tmp_path, loss, kind):
    model = network("LogSoftmax", time_first=False)
    labels = np.zeros((70, TIMES + 1), kind)
    with pytest.raises(DataError, match=r"labels: a sample has shape \[7\]"):
        onnxadmm.compress(model, spec(tmp_path, labels, objective=loss))
    with pytest.raises(DataError, match=r"class|shape"):
        onnxadmm.compress(model, spec(tmp_path, labels[:, 0], objective=loss))
