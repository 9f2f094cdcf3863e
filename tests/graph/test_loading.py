"""What loading takes, what it keeps, what it refuses and how it says so."""

import logging
from itertools import pairwise

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_graphs import FLOAT, cnn, mlp, model, save, sparse, weight, without_weight

from onnxadmm.errors import ModelError, UnsupportedError
from onnxadmm.graph import constant_of, load_model, model_bytes


def load(proto, tmp_path):
    return load_model(save(proto, tmp_path / "m.onnx"))


def refuse(proto, tmp_path, *words):
    with pytest.raises(ModelError) as caught:
        load(proto, tmp_path)
    text = str(caught.value)
    assert all(w.lower() in text.lower() for w in words), text
    assert text.startswith("model m.onnx: ")
    assert len(text) <= 280
    return caught.value


def test_what_comes_in_goes_out(tmp_path):
    proto = cnn()
    proto.doc_string, proto.producer_name = "what it is", "somebody"
    proto.metadata_props.add(key="licence", value="ours")
    proto.graph.node[0].doc_string = "first"
    proto.graph.node[0].metadata_props.add(key="from", value="layer 1")
    out = onnx.load_from_string(model_bytes(load(proto, tmp_path)))
    assert out.ir_version == proto.ir_version
    assert out.opset_import == proto.opset_import
    assert (out.doc_string, out.producer_name) == ("what it is", "somebody")
    assert out.metadata_props == proto.metadata_props
    assert out.graph.input == proto.graph.input
    assert out.graph.output == proto.graph.output
    assert list(out.graph.node) == list(proto.graph.node)
    assert list(out.graph.initializer) == list(proto.graph.initializer)


@pytest.mark.parametrize(("opset", "ir_version"), [(7, 3), (13, 7), (21, 10), (26, 13)])
def test_every_opset_that_onnxruntime_takes(tmp_path, opset, ir_version):
    w = weight("w", 4, 4)
    proto = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", FLOAT, ["N", 4]), *([("w", FLOAT, [4, 4])] if ir_version < 4 else [])],
        [("y", FLOAT, ["N", 4])],
        [w],
        opset=opset,
        ir_version=ir_version,
    )
    assert load(proto, tmp_path).opset_imports[""] == opset


@pytest.mark.parametrize("opset", [-5, 0, 6, 27, 999])
def test_other_opsets_are_refused(tmp_path, opset):
    refuse(cnn(opset=opset), tmp_path, "opset", str(opset))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"\x08", "parse"),
        (np.random.default_rng(0).bytes(4096), "parse"),
        (b"\x08\x08", "graph"),
        (b"\x18\x00\x00\x00ORTM" + bytes(64), "ORT format"),
    ],
)
def test_damaged_files(tmp_path, content, word):
    refuse(content, tmp_path, word)


def test_a_directory_a_fifo_and_a_device_are_refused_at_once(tmp_path):
    import os

    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "gone").symlink_to("nowhere")
    for name, word in (
        ("", "directory"),
        ("fifo", "FIFO"),
        ("zero", "device"),
        ("gone", "No such"),
    ):
        with pytest.raises(ModelError, match=word):
            load_model(tmp_path / name)


def test_a_symlink_to_a_model_is_a_model(tmp_path):
    save(cnn(), tmp_path / "real.onnx")
    (tmp_path / "link.onnx").symlink_to("real.onnx")
    assert len(load_model(tmp_path / "link.onnx").graph) == 8


def edit_no_opset(p):
    del p.opset_import[:]


def edit_two_opsets(p):
    p.opset_import.add(domain="", version=13)


def edit_duplicate_output(p):
    p.graph.node[1].output[0] = "c1"


def edit_initializer_shadows(p):
    p.graph.initializer.append(weight("r1", 2))


def edit_twin_initializers(p):
    p.graph.initializer.append(weight("w1", 6, 3, 3, 3))


def edit_undefined_output(p):
    p.graph.output[0].name = "nosuch"


def edit_undefined_input(p):
    p.graph.node[1].input[0] = "nosuch"


def edit_unsorted(p):
    first = p.graph.node.pop(0)
    p.graph.node.append(first)


def edit_output_twice(p):
    p.graph.output.append(p.graph.output[0])


def edit_no_type(p):
    p.graph.input[0].ClearField("type")


def edit_sequence_output(p):
    p.graph.output[0].type.sequence_type.elem_type.tensor_type.elem_type = FLOAT


def edit_no_nodes(p):
    del p.graph.node[:]


def edit_string_strides(p):
    p.graph.node[0].attribute.append(helper.make_attribute("strides", "1,1"))


def edit_missing_axis(p):
    del p.graph.node[5].attribute[:]


def edit_two_pads(p):
    p.graph.node[0].attribute.append(helper.make_attribute("pads", [0, 0, 0, 0]))


def edit_attribute_with_two_values(p):
    p.graph.node[0].attribute[0].f = 1.0


def edit_reference_outside_function(p):
    p.graph.node[0].attribute[0].CopyFrom(
        onnx.AttributeProto(name="pads", ref_attr_name="p", type=7)
    )


def edit_unknown_operator(p):
    p.graph.node[1].op_type = "Reluu"


def edit_custom_domain(p):
    p.graph.node[1].domain = "my.ops"
    p.opset_import.add(domain="my.ops", version=1)


def edit_domain_not_imported(p):
    p.graph.node[1].domain = "my.ops"


def edit_nan(p):
    p.graph.initializer[0].raw_data = b"\xff" * len(p.graph.initializer[0].raw_data)


def edit_infinity(p):
    content = np.full((6, 3, 3, 3), np.inf, np.float32).tobytes()
    p.graph.initializer[0].raw_data = content


def edit_short(p):
    p.graph.initializer[0].raw_data = p.graph.initializer[0].raw_data[:-4]


def edit_long(p):
    p.graph.initializer[0].raw_data += b"1234"


def edit_no_data(p):
    p.graph.initializer[0].ClearField("raw_data")


def edit_huge_dims(p):
    p.graph.initializer[0].dims[:] = [1 << 40]


def edit_overflowing_dims(p):
    p.graph.initializer[0].dims[:] = [1 << 62, 1 << 62, 0]


def edit_negative_dim(p):
    p.graph.initializer[0].dims[:] = [-6, -3, 3, 3]


def edit_two_data_fields(p):
    p.graph.initializer[0].float_data.extend([0.0] * 162)


def edit_wrong_data_field(p):
    p.graph.initializer[1].ClearField("raw_data")
    p.graph.initializer[1].int64_data.extend([1] * 6)


def edit_element_type(p):
    p.graph.initializer[0].data_type = 99


def edit_string_weight(p):
    p.graph.initializer[0].data_type = TensorProto.STRING


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (edit_no_opset, ["opset"]),
        (edit_two_opsets, ["opset", "two"]),
        (edit_duplicate_output, ["duplicate", "c1", "SSA"]),
        (edit_initializer_shadows, ["duplicate", "r1"]),
        (edit_twin_initializers, ["duplicate", "w1"]),
        (edit_undefined_output, ["output", "nosuch"]),
        (edit_undefined_input, ["input", "nosuch", "relu"]),
        (edit_unsorted, ["sort"]),
        (edit_output_twice, ["output", "duplicate"]),
        (edit_no_type, ["type", "'x'"]),
        (edit_sequence_output, ["sequence", "'y'"]),
        (edit_no_nodes, ["no nodes"]),
        (edit_string_strides, ["attribute", "strides"]),
        (edit_missing_axis, ["attribute", "axis"]),
        (edit_two_pads, ["duplicate", "attribute", "pads"]),
        (edit_attribute_with_two_values, ["attribute", "pads", "type"]),
        (edit_reference_outside_function, ["attribute", "pads", "function"]),
        (edit_unknown_operator, ["Reluu", "opset"]),
        (edit_custom_domain, ["Relu", "my.ops", "custom"]),
        (edit_domain_not_imported, ["my.ops", "opset"]),
        (edit_nan, ["w1", "finite", "NaN"]),
        (edit_infinity, ["w1", "finite"]),
        (edit_short, ["w1", "648", "644"]),
        (edit_long, ["w1", "648", "652"]),
        (edit_no_data, ["w1", "648", "size"]),
        (edit_huge_dims, ["w1", "large"]),
        (edit_overflowing_dims, ["w1", "large"]),
        (edit_negative_dim, ["w1", "negative"]),
        (edit_two_data_fields, ["w1", "several fields"]),
        (edit_wrong_data_field, ["b1", "int64_data"]),
        (edit_element_type, ["w1", "type 99"]),
        (edit_string_weight, ["w1", "raw_data"]),
    ],
    ids=lambda v: v.__name__.removeprefix("edit_") if callable(v) else "",
)
def test_a_spoiled_model_is_refused_with_what_where_why(tmp_path, edit, words):
    proto = cnn()
    edit(proto)
    refuse(proto, tmp_path, *words)


@pytest.mark.parametrize("place", ["name", "op_type", "output", "attribute", "dimension"])
def test_a_name_of_megabytes_is_refused_and_a_long_text_is_not(tmp_path, place):
    proto, long = cnn(), "n" * ((1 << 20) + 1)
    proto.doc_string = proto.graph.node[0].doc_string = long
    proto.metadata_props.add(key="k", value=long)
    save(proto, tmp_path / "kept.onnx")
    assert load_model(tmp_path / "kept.onnx").doc_string == long
    node = proto.graph.node[0]
    if place == "output":
        node.output.append(long)
    elif place == "attribute":
        node.attribute.add(name=long, type=1, f=1.0)
    elif place == "dimension":
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = long
    else:
        setattr(node, place, long)
    refuse(proto.SerializeToString(), tmp_path, "1048577 characters, too large a size for a name")


def test_a_name_that_is_not_utf8(tmp_path):
    content = cnn().SerializeToString().replace(b"conv", b"c\xff\xfev")
    refuse(content, tmp_path, "UTF-8")


def test_names_reach_the_message_without_control_characters(tmp_path):
    proto = mlp()
    proto.graph.node[0].input[0] = "\x1b[31mred\n" + "x" * 20_000
    error = refuse(proto, tmp_path, "input")
    assert str(error).isprintable()


def test_masks_may_hold_infinity(tmp_path):
    mask = numpy_helper.from_array(np.triu(np.full((4, 4), -np.inf, np.float32), 1), "mask")
    proto = mlp()
    proto.graph.node[0].output[0] = "h"
    proto.graph.node.append(helper.make_node("Add", ["h", "mask"], ["y"]))
    proto.graph.initializer.append(mask)
    assert len(load(proto, tmp_path).graph) == 2


def test_typed_fields_and_small_types(tmp_path):
    proto = mlp(helper.make_tensor("w", FLOAT, [4, 4], list(range(16))))
    proto.graph.initializer.append(helper.make_tensor("h", TensorProto.FLOAT16, [3], [1, 2, 3]))
    proto.graph.initializer.append(helper.make_tensor("q", TensorProto.INT4, [3], [1, 2, 3]))
    proto.graph.initializer.append(helper.make_tensor("t", TensorProto.STRING, [1], [b"a"]))
    proto.graph.initializer.append(helper.make_tensor("e", FLOAT, [0, 5], []))
    loaded = load(proto, tmp_path)
    assert constant_of(loaded.graph.initializers["w"]).ravel().tolist() == list(range(16))
    assert constant_of(loaded.graph.initializers["q"]).tolist() == [1, 2, 3]


def nested(depth):
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], [f"o{depth}"])],
        "leaf",
        [],
        [helper.make_tensor_value_info(f"o{depth}", FLOAT, None)],
    )
    for level in reversed(range(depth)):
        out = f"o{level}"
        node = helper.make_node("If", ["c"], [out], then_branch=branch, else_branch=branch)
        info = helper.make_tensor_value_info(out, FLOAT, None)
        branch = helper.make_graph([node], "level", [], [info])
    return model(
        list(branch.node),
        [("x", FLOAT, ["N", 4]), ("c", TensorProto.BOOL, [])],
        [("o0", FLOAT, None)],
    )


def test_subgraphs_are_checked_and_may_nest_a_little(tmp_path):
    load(nested(2), tmp_path)
    # Each level holds the next twice, so a few levels are already a large file.
    proto = nested(2)
    proto.graph.node[0].attribute[0].g.node[0].attribute[0].g.node[0].input[0] = "nosuch"
    refuse(proto, tmp_path, "nosuch")


def test_deep_nesting_is_refused(tmp_path):
    node = helper.make_node("Identity", ["x"], ["o"])
    leaf = helper.make_graph([node], "leaf", [], [helper.make_tensor_value_info("o", FLOAT, [1])])
    for level in range(20):
        node = helper.make_node("If", ["c"], [f"p{level}"], then_branch=leaf)
        info = helper.make_tensor_value_info(f"p{level}", FLOAT, [1])
        leaf = helper.make_graph([node], "level", [], [info])
    proto = model([node], [("x", FLOAT, [1]), ("c", TensorProto.BOOL, [])], [("p19", FLOAT, [1])])
    refuse(proto, tmp_path, "nest")


def function(name, nodes, opset=17):
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["a"], ["b"], nodes, imports)


def with_functions(functions, call="F0"):
    proto = model(
        [helper.make_node(call, ["x"], ["y"], domain="f")],
        [("x", FLOAT, ["N", 4])],
        [("y", FLOAT, ["N", 4])],
        imports=[helper.make_opsetid("f", 1)],
    )
    proto.functions.extend(functions)
    return proto


def chain(length, calls=1):
    found = []
    for i in range(length):
        last = i == length - 1
        names = ["a", *[f"t{k}" for k in range(calls - 1)], "b"]
        nodes = [
            helper.make_node("Relu" if last else f"F{i + 1}", [s], [e], domain="" if last else "f")
            for s, e in pairwise(names)
        ]
        found.append(function(f"F{i}", nodes))
    return found


def test_functions_load(tmp_path):
    assert len(load(with_functions(chain(3)), tmp_path).functions) == 3


@pytest.mark.parametrize(
    ("functions", "word"),
    [
        (lambda: chain(2000), "depth"),
        (lambda: chain(30, calls=2), "limit"),
        (
            lambda: [
                function("F0", [helper.make_node("F1", ["a"], ["b"], domain="f")]),
                function("F1", [helper.make_node("F0", ["a"], ["b"], domain="f")]),
            ],
            "cycle",
        ),
        (lambda: [*chain(1), *chain(1)], "duplicate"),
        (lambda: [function("F0", [helper.make_node("Relu", ["zz"], ["b"])])], "zz"),
        (lambda: [function("F0", [helper.make_node("Relu", ["a"], ["c"])])], "output"),
        (lambda: [function("F0", [helper.make_node("Relu", ["a"], ["b"])], opset=13)], "opset"),
        (list, "custom"),
    ],
)
def test_hostile_functions_are_refused(tmp_path, functions, word):
    refuse(with_functions(functions()), tmp_path, word)


def test_a_function_must_not_override_an_operator(tmp_path):
    proto = mlp()
    fake = function("MatMul", [helper.make_node("Neg", ["a"], ["b"])])
    fake.domain = ""
    proto.functions.append(fake)
    assert isinstance(refuse(proto, tmp_path, "function", "MatMul"), UnsupportedError)


def test_more_nodes_than_the_limit(tmp_path):
    proto = mlp()
    proto.graph.node.extend(
        onnx.NodeProto(op_type="Relu", input=["x"], output=[f"v{i}"]) for i in range(100_001)
    )
    refuse(proto, tmp_path, "nodes", "large")


@pytest.mark.parametrize("indices", [[1, 6, 11], [[0, 1], [1, 2], [2, 3]]])
def test_sparse_initializers_become_dense(tmp_path, indices):
    proto = without_weight(mlp())
    proto.graph.sparse_initializer.append(sparse(indices))
    expected = np.zeros((4, 4), np.float32)
    expected[[0, 1, 2], [1, 2, 3]] = 1.5
    loaded = load(proto, tmp_path)
    np.testing.assert_array_equal(constant_of(loaded.graph.initializers["w"]), expected)


def test_a_sparse_constant_becomes_dense(tmp_path):
    proto = without_weight(mlp())
    constant = helper.make_node("Constant", [], ["w"], sparse_value=sparse([0, 15]))
    proto.graph.node.insert(0, constant)
    value = load(proto, tmp_path).graph[0].outputs[0]
    assert constant_of(value).sum() == 3


@pytest.mark.parametrize(
    ("tensor", "word"),
    [
        (lambda: sparse([0, 16]), "index"),
        (lambda: sparse([-1, 3]), "index"),
        (lambda: sparse([[0, 4]]), "index"),
        (lambda: sparse([[0, 1, 2]]), "indices"),
        (lambda: sparse([3, 3]), "twice"),
        (lambda: sparse([0], dims=(1 << 31,)), "size"),
        (lambda: sparse([0], dims=(1 << 62, 4)), "large"),
    ],
)
def test_bad_sparse_tensors_are_refused(tmp_path, tensor, word):
    proto = without_weight(mlp())
    proto.graph.sparse_initializer.append(tensor())
    refuse(proto, tmp_path, "sparse" if word != "large" else "", word)


def test_nodes_that_share_a_name_get_their_own(tmp_path):
    proto = cnn()
    for node in proto.graph.node[1:]:
        node.name = "same"
    proto.graph.node[0].name = ""
    names = [n.name for n in load(proto, tmp_path).graph]
    assert not names[0]
    assert names[1] == "same"
    assert len(set(names)) == 8


def test_an_input_without_a_shape_gets_the_rank_its_convolution_needs(tmp_path):
    proto = cnn()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    shape = load(proto, tmp_path).graph.inputs[0].shape
    assert len(shape) == 4
    assert all(isinstance(d, ir.SymbolicDim) for d in shape)
    proto = mlp()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    refuse(proto, tmp_path, "shape", "'x'")


def test_nothing_is_printed(tmp_path, capfd, caplog):
    proto = cnn()
    proto.graph.value_info.append(helper.make_tensor_value_info("c1", FLOAT, [1, 1]))
    with caplog.at_level(logging.CRITICAL):
        load(proto, tmp_path)
    assert capfd.readouterr() == ("", "")
