"""Models that take one batch size, as exporters for phones write them, are trained like others."""

from __future__ import annotations

import numpy as np
import onnx.helper as oh
import onnx_ir as ir
import pytest
from onnx import TensorProto, numpy_helper

import onnxadmm


def network(rows):
    """Return two layers over [rows, 2, 3], flattened by a shape that holds the batch size, and taken apart again."""
    rng = np.random.default_rng(0)
    held = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32) / 2, n)
        for n, s in {"a": (6, 16), "b": (16, 4)}.items()
    ]
    for name, shape in {"flat": [rows, 6], "apart": [rows, 2, 2]}.items():
        held.append(numpy_helper.from_array(np.array(shape), name))
    nodes = [
        oh.make_node("Reshape", ["x", "flat"], ["f"]),
        oh.make_node("MatMul", ["f", "a"], ["h"], name="first"),
        oh.make_node("Relu", ["h"], ["r"]),
        oh.make_node("MatMul", ["r", "b"], ["z"], name="second"),
        oh.make_node("Reshape", ["z", "apart"], ["y"]),
    ]
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 2, 3])],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 2, 2])],
        held,
    )
    return ir.from_proto(
        oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    )


@pytest.mark.parametrize("rows", [1, 4])
def test_it_is_distilled_with_batches_of_any_size(rows, tmp_path, capfd):
    x = np.random.default_rng(1).standard_normal((70, 2, 3)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    split = {"inputs": {"x": str(tmp_path / "d.npz")}}
    spec = {
        "version": 1,
        "data": {"train": split, "evaluate": split, "batch_size": 16},
        "objective": "distill",
        "prune": [{"structure": "channel", "amount": 0.25, "round_to": 1}],
        "quantize": [{"layers": "*"}],
        "schedule": {"epochs": 2, "retrain": 8},
        "benchmark": {"providers": []},
    }
    result = onnxadmm.compress(network(rows), spec)
    assert result.report.ratios.parameters == pytest.approx(4 / 3)
    assert result.report.compressed.metrics["agreement"] > 0.8
    losses = [e.loss for e in result.report.history if e.stage == "retrain"]
    assert losses[-1] < losses[0]
    assert not capfd.readouterr().err
