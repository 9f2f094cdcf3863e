"""Inputs that are one number for all samples, as a sampling rate is, go with every batch."""

from __future__ import annotations

import numpy as np
import onnx.helper as oh
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import TensorProto, numpy_helper

import onnxadmm
from onnxadmm.errors import DataError


def network(rows):
    """Return two layers over [rows, 6] / rate."""
    rng = np.random.default_rng(0)
    held = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32) / 2, n)
        for n, s in {"a": (6, 16), "b": (16, 4)}.items()
    ]
    nodes = [
        oh.make_node("Cast", ["rate"], ["r"], to=TensorProto.FLOAT),
        oh.make_node("Div", ["x", "r"], ["s"]),
        oh.make_node("MatMul", ["s", "a"], ["h"], name="first"),
        oh.make_node("Relu", ["h"], ["l"]),
        oh.make_node("MatMul", ["l", "b"], ["y"], name="second"),
    ]
    graph = oh.make_graph(
        nodes,
        "g",
        [
            oh.make_tensor_value_info("rate", TensorProto.INT64, []),
            oh.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 6]),
        ],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 4])],
        held,
    )
    return ir.from_proto(
        oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    )


def spec(folder, rate):
    x = np.random.default_rng(1).standard_normal((70, 6)).astype(np.float32)
    np.savez(folder / "d.npz", x=x, rate=rate)
    file = str(folder / "d.npz")
    split = {"inputs": {"x": file, "rate": file}}
    return {
        "version": 1,
        "data": {"train": split, "evaluate": split, "batch_size": 16},
        "objective": "distill",
        "prune": [{"structure": "channel", "amount": 0.25, "round_to": 1}],
        "quantize": [{"layers": "*"}],
        "schedule": {"epochs": 1, "retrain": 4},
        "benchmark": {"rounds": 5, "batch_sizes": [1, 2]},
    }


@pytest.mark.parametrize("rows", ["N", 1])
@pytest.mark.parametrize("rate", [np.int64(2), np.full(70, 2)])
def test_they_go_with_every_batch(rows, rate, tmp_path):
    result = onnxadmm.compress(network(rows), spec(tmp_path, rate))
    assert result.report.ratios.parameters == pytest.approx(4 / 3)
    assert result.report.original.metrics == {"agreement": 1.0}
    assert result.report.compressed.metrics["agreement"] > 0.6


@pytest.mark.parametrize("rate", [np.arange(70), np.zeros(0, np.int64)])
def test_several_are_refused(rate, tmp_path):
    with pytest.raises(DataError, match=r"rate.*single one.*store one"):
        onnxadmm.compress(network("N"), spec(tmp_path, rate))


def test_samples_that_the_model_refuses_are_told(tmp_path):
    """A token that its table hasn't."""
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (int64[N, 4] x) => (float[N, 3] y) '
        "{ e = Gather(t, x) m = ReduceMean <axes = [1], keepdims = 0> (e) y = MatMul(m, w) }"
    )
    proto = onnx.parser.parse_model(text)
    for name, shape in {"t": (10, 8), "w": (8, 3)}.items():
        content = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(content, name))
    np.savez(tmp_path / "d.npz", x=np.full((20, 4), 50))
    asked = {
        "version": 1,
        "data": {"train": {"inputs": {"x": str(tmp_path / "d.npz")}}},
        "objective": "distill",
        "prune": [{"structure": "channel", "amount": 0.5}],
        "benchmark": {"providers": []},
    }
    with pytest.raises(DataError, match=r"can't run the model on the first samples.*Gather"):
        onnxadmm.compress(proto, asked)
