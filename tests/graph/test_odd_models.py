"""Models that are odd and valid are taken; more of those that aren't, and files that aren't models, are refused."""

from __future__ import annotations

import gc
import gzip
import io
import socket
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.json_format import MessageToJson
from onnx import TensorProto, helper, numpy_helper
from small_graphs import FLOAT, cnn, external, mlp, model, save, sparse, weight, without_weight

from onnxadmm.errors import InputError, ModelError, ResourceError, UnsupportedError
from onnxadmm.graph import load_model, probe

CONTENT = np.arange(16, dtype=np.float32).tobytes()


def product(nodes, *, inputs=(), outputs=(), initializers=(), **kwargs):
    """Return x [N, 4] through nodes that end with `h`, and a MatMul."""
    return model(
        [*nodes, helper.make_node("MatMul", ["h", "w"], ["y"])],
        [("x", FLOAT, ["N", 4]), *inputs],
        [("y", FLOAT, ["N", 4]), *outputs],
        [weight("w", 4, 4), *initializers],
        **kwargs,
    )


def changed(edit, make=cnn):
    proto = make()
    edit(proto)
    return proto


def scalar_input():
    return product([helper.make_node("Mul", ["x", "s"], ["h"])], inputs=[("s", FLOAT, [])])


def no_inputs():
    node = helper.make_node("MatMul", ["a", "w"], ["y"])
    return model([node], [], [("y", FLOAT, [4, 4])], [weight("a", 4, 4), weight("w", 4, 4)])


def inputs_left_out():
    high = numpy_helper.from_array(np.float32(6), "high")
    return product([helper.make_node("Clip", ["x", "", "high"], ["h"])], initializers=[high])


def outputs_left_out():
    return product([helper.make_node("Dropout", ["x"], ["h", ""])])


def recurrent_without_sequence():
    node = helper.make_node("LSTM", ["x", "w", "r", "", "", ""], ["", "h", ""], hidden_size=4)
    weights = [weight("w", 1, 16, 3), weight("r", 1, 16, 4)]
    return model([node], [("x", FLOAT, [5, "N", 3])], [("h", FLOAT, None)], weights)


def many_outputs():
    nodes = [helper.make_node("Add", ["y", f"b{i}"], [f"o{i}"]) for i in range(300)]
    return model(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), *nodes],
        [("x", FLOAT, ["N", 4])],
        [(f"o{i}", FLOAT, ["N", 4]) for i in range(300)],
        [weight("w", 4, 4), *(weight(f"b{i}", 4) for i in range(300))],
    )


def renamed(name):
    proto = mlp(w_name=name)
    proto.graph.node[0].name = name
    return proto


def training_information(proto):
    info = proto.training_info.add()
    info.initialization.initializer.append(weight("z", 4))
    info.update_binding.add(key="w", value="z")


def overload():
    node = helper.make_node("F", ["x"], ["h"], domain="f")
    node.overload = "second"
    proto = product([node], imports=[helper.make_opsetid("f", 1)], ir_version=10)
    imports = [helper.make_opsetid("", 17)]
    body = [helper.make_node("Relu", ["a"], ["b"])]
    proto.functions.append(helper.make_function("f", "F", ["a"], ["b"], body, imports))
    proto.functions[0].overload = "second"
    return proto


def quantized():
    tensors = [
        numpy_helper.from_array(np.float32(0.1), "s"),
        numpy_helper.from_array(np.uint8(128), "z"),
        numpy_helper.from_array(np.int8(0), "zw"),
        numpy_helper.from_array(np.ones((4, 4), np.int8), "q"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["a"]),
        helper.make_node("QLinearMatMul", ["a", "s", "z", "q", "s", "zw", "s", "z"], ["b"]),
        helper.make_node("DequantizeLinear", ["b", "s", "z"], ["h"]),
    ]
    return product(nodes, initializers=tensors)


def small_type(kind, opset=21, ir_version=10):
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"]),
        helper.make_node("MatMul", ["x", "d"], ["h"]),
    ]
    tensors = [
        helper.make_tensor("q", kind, [4, 4], [1] * 16),
        numpy_helper.from_array(np.float32(0.5), "s"),
    ]
    return product(nodes, initializers=tensors, opset=opset, ir_version=ir_version)


def text_beside():
    node = helper.make_node("Identity", ["t"], ["u"])
    start = helper.make_node("Identity", ["x"], ["h"])
    text = TensorProto.STRING
    return product([node, start], inputs=[("t", text, ["N"])], outputs=[("u", text, ["N"])])


def sequence_within():
    return product(
        [
            helper.make_node("SplitToSequence", ["x"], ["s"], axis=1),
            helper.make_node("ConcatFromSequence", ["s"], ["h"], axis=1),
        ]
    )


VALID = {
    "scalar input": scalar_input(),
    "no inputs": no_inputs(),
    "inputs left out": inputs_left_out(),
    "outputs left out": outputs_left_out(),
    "recurrent": recurrent_without_sequence(),
    "300 outputs": many_outputs(),
    "other scripts": renamed("重み 😀 e\u0301"),
    "markup": renamed("<script>alert(1)</script>\"'`&|"),
    "control characters": renamed("\x1b[31m\n\t"),
    "training information": changed(training_information, mlp),
    "overloaded function": overload(),
    "quantized": quantized(),
    "int4": small_type(TensorProto.INT4),
    "uint4": small_type(TensorProto.UINT4),
    "float8": small_type(TensorProto.FLOAT8E4M3FN),
    "text beside": text_beside(),
    "sequence within": sequence_within(),
    "sparse and empty": changed(
        lambda p: p.graph.sparse_initializer.append(sparse([])), lambda: without_weight(mlp())
    ),
    "recorded shapes lie": changed(
        lambda p: p.graph.value_info.append(
            helper.make_tensor_value_info("c1", FLOAT, [1 << 62, 1 << 62])
        )
    ),
    "unused input": changed(
        lambda p: p.graph.input.append(helper.make_tensor_value_info("u", FLOAT, ["N", 3]))
    ),
    "open dimensions": changed(
        lambda p: p.graph.input[0].CopyFrom(
            helper.make_tensor_value_info("x", FLOAT, [-1, 3, None, -1])
        )
    ),
    "10,000 metadata": changed(
        lambda p: [p.metadata_props.add(key=f"k{i}", value="v") for i in range(10_000)]
    ),
}


@pytest.mark.parametrize("name", VALID)
def test_odd_and_valid(tmp_path, name):
    graph = load_model(save(VALID[name], tmp_path / "m.onnx"))
    assert graph.graph.outputs[-1].name in probe(graph).dtypes


@pytest.mark.parametrize("opset", [8, 9, 10, 11, 15, 18, 20, 22, 23, 24, 25])
def test_the_opsets_between(tmp_path, opset):
    proto = cnn(opset=opset, ir_version=13 if opset > 24 else 10 if opset > 18 else 8)
    assert load_model(save(proto, tmp_path / "m.onnx")).opset_imports[""] == opset


@pytest.mark.parametrize("version", [0, 2, 14, 1_000_000_000])
def test_other_ir_versions(tmp_path, version):
    with pytest.raises(UnsupportedError, match=f"IR version is {version}"):
        load_model(save(cnn(ir_version=version), tmp_path / "m.onnx"))


def zipped(content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("model.onnx", content)
    return stream.getvalue()


def test_what_is_no_model(tmp_path):
    whole = cnn().SerializeToString()
    for content in (
        gzip.compress(whole),
        zipped(whole),
        MessageToJson(cnn()).encode(),
        onnx.printer.to_text(cnn()).encode(),
        str(cnn()).encode(),
        b"<!doctype html><html>404</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 9\n",
        b"\xef\xbb\xbf" + whole,
        whole + b"\xff" * 50,
        whole[: len(whole) // 2],
        whole[:1],
    ):
        with pytest.raises(ModelError) as caught:
            load_model(save(content, tmp_path / "m.onnx"))
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "place", ["/dev/null", "/dev/urandom", "/dev/full", "/proc/self/mem", "loop"]
)
def test_places_that_are_no_files(tmp_path, place):
    (tmp_path / "loop").symlink_to(place)
    with pytest.raises((ModelError, ResourceError)):
        load_model(tmp_path / "loop")


def test_a_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("m.onnx")
        with pytest.raises(ModelError, match="socket"):
            load_model("m.onnx")


def constant(nodes, **tensors):
    """Return a network that adds the largest value of a computed constant `big`."""
    held = [numpy_helper.from_array(np.asarray(v), n) for n, v in tensors.items()]
    return product(
        [
            *nodes,
            helper.make_node("ReduceMax", ["big"], ["m"], keepdims=0),
            helper.make_node("Add", ["x", "m"], ["h"]),
        ],
        initializers=held,
    )


def node(kind, inputs, **kwargs):
    return helper.make_node(kind, inputs, ["big"], **kwargs)


def accumulating():
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["d"]),
            helper.make_node("Identity", ["page"], ["p"]),
        ],
        "body",
        [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, [])],
        [info("d", TensorProto.BOOL, []), info("p", FLOAT, None)],
    )
    loop = node("Loop", ["n", "yes"], body=body)
    page = np.zeros((1024, 256), np.float32)
    return constant([loop], n=np.array(100_000), yes=np.array(True), page=page)


ONE = np.ones(1, np.float32)
BOMBS = {
    "Expand": constant([node("Expand", ["one", "d"])], one=ONE, d=[100_000, 100_000]),
    "Expand, overflowing": constant([node("Expand", ["one", "d"])], one=ONE, d=[1 << 32, 1 << 32]),
    "Tile": constant([node("Tile", ["one", "d"])], one=ONE, d=[1 << 40]),
    "Range": constant(
        [node("Range", ["a", "b", "c"])], a=np.float32(0), b=np.float32(1e10), c=np.float32(1)
    ),
    "OneHot": constant(
        [node("OneHot", ["i", "d", "v"])], i=[0], d=np.array(1 << 35), v=np.float32([0, 1])
    ),
    "Resize": constant(
        [node("Resize", ["one", "", "d"])],
        one=ONE.reshape(1, 1, 1, 1),
        d=np.float32([1, 1, 1e5, 1e5]),
    ),
    "Loop": accumulating(),
}


@pytest.mark.parametrize("name", BOMBS)
def test_operators_that_make_gigabytes_of_a_few_bytes(tmp_path, name):
    graph = load_model(save(BOMBS[name], tmp_path / "m.onnx"))
    with pytest.raises(InputError):
        probe(graph)


def attribute(name, value):
    def edit(proto):
        node = proto.graph.node[0]
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return edit


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pads", [1 << 62] * 4),
        ("group", 0),
        ("group", 1 << 62),
        ("dilations", [1 << 40] * 2),
        ("strides", [0, 0]),
        ("kernel_shape", [-1, 3]),
    ],
)
def test_attributes_beyond_all_sizes(tmp_path, name, value):
    proto = changed(attribute(name, value))
    with pytest.raises(InputError):
        probe(load_model(save(proto, tmp_path / "m.onnx")))


def test_a_cycle(tmp_path):
    proto = product(
        [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    )
    proto.graph.node[2].input[0] = "b"
    with pytest.raises(ModelError, match="cycle"):
        load_model(save(proto, tmp_path / "m.onnx"))


def test_operators_that_name_files_or_code(tmp_path):
    for domain, kind, attributes in (
        ("com.microsoft", "EPContext", {"ep_cache_context": "../x", "embed_mode": 0}),
        ("pyopmulti_1", "PyOp", {"module": "os", "class_name": "system"}),
    ):
        held = helper.make_node(kind, ["x"], ["h"], domain=domain, **attributes)
        proto = product([held], imports=[helper.make_opsetid(domain, 1)])
        with pytest.raises(InputError):
            probe(load_model(save(proto, tmp_path / "m.onnx")))


def test_side_files_in_great_numbers(tmp_path):
    proto = mlp()
    for i in range(400):
        (tmp_path / f"w{i}").write_bytes(CONTENT)
        proto.graph.initializer.append(external(f"w{i}", name=f"u{i}"))
    descriptors = Path("/proc/self/fd")
    # Models of earlier tests may wait for the collector with their files.
    gc.collect()
    before = len(list(descriptors.iterdir()))
    assert len(load_model(save(proto, tmp_path / "m.onnx")).graph.initializers) == 401
    assert len(list(descriptors.iterdir())) == before


def test_a_few_bytes_on_the_disk_that_are_terabytes(tmp_path):
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(1 << 37)
    proto = mlp()
    proto.graph.initializer.append(external("w.bin", name="u", dims=(1 << 17, 1 << 18)))
    with pytest.raises(ResourceError, match=r"128\.0 GiB"):
        load_model(save(proto, tmp_path / "m.onnx"))


def test_many_tensors_over_one_side_file(tmp_path):
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(1 << 28)
    proto = mlp()
    for i in range(400):
        proto.graph.initializer.append(external("w.bin", name=f"u{i}", dims=(1 << 26,)))
    with pytest.raises(ResourceError, match=r"100\.0 GiB"):
        load_model(save(proto, tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    ("opset", "op", "weights"),
    [(17, "SimplifiedLayerNormalization", 1), (13, "LayerNormalization", 2)],
)
def test_what_onnx_runtime_adds_to_the_standard_s_domain_is_accepted(tmp_path, opset, op, weights):
    given = ", ".join("ab"[:weights])
    proto = onnx.parser.parse_model(f"""
    <ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, 3] x) => (float[N, 3] y) <float[3] a = {{1, 2, 3}}, float[3] b = {{3, 4, 5}}> {{
        y = {op}<epsilon = 0.1>(x, {given})
    }}""")
    onnx.save(proto, tmp_path / "model.onnx")
    assert probe(load_model(tmp_path / "model.onnx")).shapes["y"] == (1, 3)
    proto.graph.node[0].op_type = "MadeUp"
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedError, match="no such operator"):
        load_model(tmp_path / "model.onnx")


def test_more_axes_than_arrays_have_are_refused(tmp_path):
    proto = cnn()
    proto.graph.input.append(helper.make_tensor_value_info("deep", FLOAT, [1] * 65))
    save(proto, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match="'deep' has 65 axes, above the limit of 64"):
        load_model(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("values", "said"), [(("value", "value_float"), "keep one"), ((), "this has 0")]
)
def test_a_constant_has_one_value(tmp_path, values, said):
    held = {"value": numpy_helper.from_array(np.ones((1, 4), np.float32)), "value_float": 1.0}
    node = helper.make_node("Constant", [], ["k"], **{n: held[n] for n in values})
    proto = product([node, helper.make_node("Add", ["x", "k"], ["h"])])
    save(proto, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=f"a Constant has one attribute.*{said}"):
        load_model(tmp_path / "m.onnx")


def test_a_file_that_no_protobuf_can_be_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    save(cnn(), path)
    with path.open("r+b") as file:
        file.truncate(1 << 31)
    with pytest.raises(ModelError, match="2147483648 bytes, above the 2 GiB that ONNX allows"):
        load_model(path)
