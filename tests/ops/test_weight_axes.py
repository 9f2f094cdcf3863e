"""Which axes of a weight hold its outputs and inputs, for each way that operators store them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from onnxadmm.ops import weight_axes

CASES = {
    "Conv": ({}, (2, 3, 4, 4), (5, 3, 1, 1), (0, 1)),
    "ConvTranspose": ({}, (2, 3, 4, 4), (3, 5, 1, 1), (1, 0)),
    "Gemm": ({}, (2, 3), (3, 5), (1, 0)),
    "Gemm transB": ({"transB": 1}, (2, 3), (5, 3), (0, 1)),
    "MatMul": ({}, (2, 3), (3, 5), (1, 0)),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_inputs_are_found(case):
    attributes, x, shape, expected = CASES[case]
    node = helper.make_node(case.split()[0], ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(shape, np.float32), "w")],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert weight_axes(model) == {"w": expected}
