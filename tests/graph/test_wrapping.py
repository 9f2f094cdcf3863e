"""Outputs that are sequences or maps are off the graph while it is worked on, and in the file as they were."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import helper

from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import load_model, model_contents, model_size, probe, save_model, wrapping_of

FEED = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}


def text(signature, body, opset=17):
    opsets = f'<ir_version: 8, opset_import: ["": {opset}, "ai.onnx.ml": 2]>'
    return onnx.parser.parse_model(f"{opsets} g (float[N, 4] x) => ({signature}) {{ {body} }}")


def zipped(body="p = Softmax(x)"):
    """Return a classifier that ends as scikit-learn's do."""
    proto = text(
        "int64[N] label, float[N, 4] z", f"{body} label = ArgMax <axis = 1, keepdims = 0> (p)"
    )
    zip_map = helper.make_node(
        "ZipMap", ["p"], ["z"], name="zip", domain="ai.onnx.ml", classlabels_int64s=[2, 3, 5, 7]
    )
    proto.graph.node.append(zip_map)
    inner = helper.make_map_type_proto(onnx.TensorProto.INT64, helper.make_tensor_type_proto(1, []))
    proto.graph.output[1].type.CopyFrom(helper.make_sequence_type_proto(inner))
    return proto


MODELS = {
    "map": (zipped, ["label", "p"]),
    "sequence": (
        lambda: text("seq(float[N, 4]) s", "a = Relu(x) b = Exp(a) s = SequenceConstruct(a, b)"),
        ["a", "b"],
    ),
    "and a tensor": (
        lambda: text(
            "seq(float[N, 4]) s, float[N, 4] a",
            "a = Relu(x) b = Exp(a) s = SequenceConstruct(b, a, x)",
        ),
        ["b", "a"],
    ),
    "in steps": (
        lambda: text(
            "seq(float[N, 4]) t",
            "a = Relu(x) s = SequenceEmpty() n = SequenceInsert(s, a) k = Constant <value = int64 {0}> () "
            "b = Exp(a) u = SequenceInsert(n, b, k) t = Identity(u)",
            opset=16,
        ),
        ["a", "b"],
    ),
    "read on": (
        lambda: text(
            "seq(float[N, 4]) s, float[N, 4] y",
            "a = Relu(x) b = Exp(a) s = SequenceConstruct(a, b) k = Constant <value = int64 {1}> () "
            "y = SequenceAt(s, k)",
        ),
        ["a", "b", "y"],
    ),
    "split": (
        lambda: text(
            "seq(float[N, 2]) s",
            "a = Relu(x) k = Constant <value = int64 {2}> () s = SplitToSequence <axis = 1> (a, k)",
        ),
        ["a"],
    ),
    "optional": (lambda: text("optional(float[N, 4]) o", "a = Relu(x) o = Optional(a)"), ["a"]),
}


def ran(content):
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, FEED)


def same(found, wanted):
    if isinstance(wanted, dict):
        return found == wanted
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return np.array_equal(found, wanted)


def described(node):
    attributes = sorted(str(a) for a in node.attribute)
    return node.domain, node.op_type, list(node.input), list(node.output), attributes


@pytest.mark.parametrize("kind", MODELS)
def test_tensors_stand_for_it_and_the_file_has_it_again(kind, tmp_path):
    make, shown = MODELS[kind]
    proto = make()
    onnx.save(proto, tmp_path / "in.onnx")
    model = load_model(tmp_path / "in.onnx")
    assert sorted(v.name for v in model.graph.outputs) == sorted(shown)
    assert set(shown) <= set(probe(model).shapes)
    save_model(model.clone(), tmp_path / "out.onnx")
    back = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(back)
    assert [v.SerializeToString() for v in back.graph.output] == [
        v.SerializeToString() for v in proto.graph.output
    ]
    assert sorted(map(described, back.graph.node)) == sorted(map(described, proto.graph.node))
    assert same(ran((tmp_path / "out.onnx").read_bytes()), ran(proto.SerializeToString()))
    assert model_size(model) == (tmp_path / "out.onnx").stat().st_size


def test_a_constant_that_only_the_sequence_reads_comes_back(tmp_path):
    proto = text("seq(float[N, 2]) s", "s = SplitToSequence <axis = 1> (a, k)")
    proto.graph.node.insert(0, helper.make_node("Relu", ["x"], ["a"]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 3]), "k"))
    onnx.save(proto, tmp_path / "in.onnx")
    model = load_model(tmp_path / "in.onnx")
    assert not model.graph.initializers
    (content,) = model_contents(model).values()
    assert same(ran(content), ran(proto.SerializeToString()))


def test_what_is_already_tensors_is_let_alone(tmp_path):
    onnx.save(text("float[N, 4] y", "y = Relu(x)"), tmp_path / "in.onnx")
    assert wrapping_of(load_model(tmp_path / "in.onnx")) is None


IN_A_BRANCH = (
    "c = Constant <value = bool {1}> () s = If (c) <then_branch = t () => (seq(float[N, 4]) u) "
    "{ u = SequenceConstruct(x) }, else_branch = e () => (seq(float[N, 4]) v) { v = SequenceConstruct(x, x) }>"
)


@pytest.mark.parametrize("body", [IN_A_BRANCH, "r = Relu(x) s = SequenceEmpty()"])
def test_an_output_of_no_known_tensors_is_refused(body, tmp_path):
    onnx.save(text("seq(float[N, 4]) s", body), tmp_path / "in.onnx")
    with pytest.raises(UnsupportedError, match=r"output.*(cut the graph before it|depends on)"):
        load_model(tmp_path / "in.onnx")


def test_a_sequence_as_input_is_refused(tmp_path):
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (seq(float[N, 4]) s) => (float[N, M] y) '
        "{ y = ConcatFromSequence <axis = 1> (s) }"
    )
    onnx.save(proto, tmp_path / "in.onnx")
    with pytest.raises(UnsupportedError, match="sequence, not a tensor"):
        load_model(tmp_path / "in.onnx")
