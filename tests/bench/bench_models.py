"""Small ONNX models whose cost is known by construction."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def _serialize(nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def tensor(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def matmuls(count, width=96, batch="N"):
    """[batch, width] through `count` square MatMuls that ONNX Runtime can't fold into one."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for i in range(count):
        weight = (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [last := f"r{i}"]))
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    return _serialize(nodes, [tensor("x", [batch, width])], [tensor("y", [batch, width])], weights)


def rows(batch_size, width=96):
    return {"x": np.random.default_rng(0).random((batch_size, width), dtype=np.float32)}


def endless():
    """[N, 96], for ever: a Loop with more rounds than anybody waits for."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("Sin", ["v"], ["v_out"]),
        ],
        "body",
        [
            tensor("i", [], TensorProto.INT64),
            tensor("go_on", [], TensorProto.BOOL),
            tensor("v", None),
        ],
        [tensor("go_on_out", [], TensorProto.BOOL), tensor("v_out", None)],
    )
    trips = numpy_helper.from_array(np.array(2**62), "trips")
    always = numpy_helper.from_array(np.array(True), "always")
    loop = helper.make_node("Loop", ["trips", "always", "x"], ["y"], body=body)
    return _serialize([loop], [tensor("x", ["N", 96])], [tensor("y", ["N", 96])], [trips, always])


def sums():
    """[N, 2] to its sum: an output without a batch axis."""
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    return _serialize([node], [tensor("x", ["N", 2])], [tensor("y", [])])


def differences(batch="N"):
    """Two inputs [N, 2]; outputs `d` [N, 2] and `twice` [2 N, 2]."""
    nodes = [
        helper.make_node("Sub", ["a", "b"], ["d"]),
        helper.make_node("Concat", ["a", "a"], ["wide"], axis=1),
        helper.make_node("Reshape", ["wide", "shape"], ["twice"]),
    ]
    shape = numpy_helper.from_array(np.array([-1, 2]), "shape")
    return _serialize(
        nodes,
        [tensor("a", [batch, 2]), tensor("b", [batch, 2])],
        [tensor("d", [batch, 2]), tensor("twice", [None, 2])],
        [shape],
    )
