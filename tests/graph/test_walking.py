"""Questions about nodes and values, and putting a graph in order."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from small_graphs import FLOAT, cnn, mlp, model

from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import (
    all_nodes,
    clear_stale,
    complete_outputs,
    constant_of,
    name_nodes,
    node_label,
    since_version,
)


@pytest.mark.parametrize(
    ("attribute", "expected", "dtype"),
    [
        ({"value_float": 1.5}, 1.5, np.float32),
        ({"value_floats": [1.0, 2.0]}, [1, 2], np.float32),
        ({"value_int": 3}, 3, np.int64),
        ({"value_ints": [3, 4]}, [3, 4], np.int64),
        ({"value_ints": np.array([3])}, [3], np.int64),
        ({"value_string": "a"}, "a", object),
        ({"value_strings": ["a", "b"]}, ["a", "b"], object),
        ({"value": helper.make_tensor("t", TensorProto.INT8, [2], [1, 2])}, [1, 2], np.int8),
    ],
)
def test_constants_in_every_form(attribute, expected, dtype):
    node = helper.make_node("Constant", [], ["c"], **attribute)
    proto = model([node], [("x", FLOAT, [1])], [("c", FLOAT, None)])
    array = constant_of(ir.from_proto(proto).graph[0].outputs[0])
    assert array.tolist() == expected
    assert array.dtype == dtype


def test_what_is_no_constant():
    graph = ir.from_proto(cnn()).graph
    assert constant_of(None) is None
    assert constant_of(graph.inputs[0]) is None
    assert constant_of(graph[0].outputs[0]) is None
    assert constant_of(graph[0].inputs[1]).shape == (6, 3, 3, 3)


def with_branches():
    info = helper.make_tensor_value_info("o", FLOAT, None)
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["o"], name="in")], "b", [], [info])
    node = helper.make_node("If", ["c"], ["y"], name="if", then_branch=branch, else_branch=branch)
    inputs = [("x", FLOAT, [1]), ("c", TensorProto.BOOL, [])]
    return ir.from_proto(model([node], inputs, [("y", FLOAT, [1])]))


def test_all_nodes_goes_into_subgraphs():
    assert [n.op_type for n in all_nodes(with_branches())] == ["If", "Relu", "Relu"]


def test_names_are_unique_across_subgraphs():
    loaded = with_branches()
    name_nodes(loaded)
    assert [n.name for n in all_nodes(loaded)] == ["if", "in", "in_1"]


def test_unnamed_nodes_are_named_after_what_they_make():
    proto = cnn()
    proto.graph.node[0].name = ""
    proto.graph.node[1].name = "Conv_c1"
    loaded = ir.from_proto(proto)
    name_nodes(loaded, unnamed=False)
    assert not loaded.graph[0].name
    name_nodes(loaded)
    assert [n.name for n in loaded.graph][:3] == ["Conv_c1_1", "Conv_c1", "pool"]


def test_labels_are_printable():
    proto = mlp()
    assert node_label(ir.from_proto(proto).graph[0]) == "fc"
    proto.graph.node[0].name = ""
    assert node_label(ir.from_proto(proto).graph[0]) == "MatMul -> y"
    proto.graph.node[0].name = "a\x1b[0m\n"
    assert node_label(ir.from_proto(proto).graph[0]).isprintable()


@pytest.mark.parametrize(("opset", "since"), [(9, 9), (12, 11), (17, 13)])
def test_a_definition_is_named_by_its_since_version(opset, since):
    loaded = ir.from_proto(cnn(opset=opset))
    assert since_version(loaded, loaded.graph[7]) == since


def test_an_unknown_operator_has_no_definition():
    proto = mlp()
    proto.graph.node[0].op_type = "Mat"
    loaded = ir.from_proto(proto)
    with pytest.raises(UnsupportedError, match="Mat"):
        since_version(loaded, loaded.graph[0])


def test_stale_shapes_go_and_the_interface_stays():
    proto = cnn()
    proto.graph.value_info.append(helper.make_tensor_value_info("c1", FLOAT, [1, 6, 8, 8]))
    loaded = ir.from_proto(proto)
    clear_stale(loaded)
    assert loaded.graph[0].outputs[0].shape is None
    assert loaded.graph[0].outputs[0].dtype == ir.DataType.FLOAT
    assert loaded.graph.inputs[0].shape is not None
    assert loaded.graph.outputs[0].shape is not None


def test_an_output_without_a_shape_gets_its_rank():
    proto = cnn()
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    loaded = ir.from_proto(proto)
    complete_outputs(loaded, {"y": (1, 10)})
    assert len(loaded.graph.outputs[0].shape) == 2
    assert all(isinstance(d, ir.SymbolicDim) for d in loaded.graph.outputs[0].shape)
