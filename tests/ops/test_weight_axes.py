"""Which axes of a weight hold its outputs and inputs, for each way that operators store them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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


@settings(max_examples=40, deadline=None)
@given(
    case=st.sampled_from(sorted(CASES)),
    turns=st.lists(st.sampled_from(["Identity", "Transpose", "Cast"]), max_size=3),
    data=st.data(),
)
def test_they_are_found_behind_what_only_turns_the_weight(case, turns, data):
    attributes, x, shape, expected = CASES[case]
    stored, chain, value, order = np.ones(shape, np.float32), [], "w", list(range(len(shape)))
    # From the layer back to the tensor that the graph holds.
    for number, op in enumerate(turns):
        perm = data.draw(st.permutations(range(len(shape)))) if op == "Transpose" else None
        if perm is not None and sorted(perm, reverse=True) == perm and data.draw(st.booleans()):
            turn = {}  # what a Transpose does without an order
        else:
            turn = {} if perm is None else {"perm": perm}
        if op == "Cast":
            turn = {"to": onnx.TensorProto.FLOAT}
        chain.insert(0, helper.make_node(op, [f"{value}{number}"], [value], **turn))
        value = f"{value}{number}"
        if perm is not None:
            back = np.argsort(perm)
            stored, order = stored.transpose(back), [order[i] for i in back]
    graph = helper.make_graph(
        [*chain, helper.make_node(case.split()[0], ["x", "w"], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ascontiguousarray(stored), value)],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert weight_axes(model) == {value: tuple(order.index(axis) for axis in expected)}
