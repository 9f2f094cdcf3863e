"""Packing: ONNX Runtime reads the same weights from a smaller file, and runs no decoder."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxadmm.compact import pack_tensors, unpack_tensors
from onnxadmm.compact.packing import find_scales
from onnxadmm.compact.unpacking import DOMAIN
from onnxadmm.graph import model_bytes

F = np.float32


def product(weight, opset=17, ir_version=8):
    """Return y = x @ w as a model."""
    rows, columns = weight.shape
    model = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["": {opset}]>'
        f"g (float[N,{rows}] x) => (float[N,{columns}] y) {{ y = MatMul(x, w) }}"
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return ir.from_proto(model)


def optimized(model, tmp_path):
    """Return a session and the operators that it really runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    content = model_bytes(model)
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    held = onnx.load(tmp_path / "optimized.onnx")
    return session, [n.op_type for n in held.graph.node]


def sparse(rng, levels, share=0.01, shape=(200, 300)):
    dense = rng.choice(np.asarray(levels, F), shape)
    return np.where(rng.random(shape) < share, dense, F(0))


def scaled_levels(rng, top, axis):
    levels = np.clip(np.rint(rng.standard_normal((200, 300)) * top / 3), -top, top).astype(F)
    scales = rng.uniform(0.001, 0.1, (200, 1) if axis == 0 else (1, 300)).astype(F)
    return levels * scales


RNG = np.random.default_rng(0)
GRID = np.array([q for q in range(-7, 8) if q], F) * F(0.03)
CONTENTS = {
    "sparse, few levels": (sparse(RNG, GRID), "sparse levels"),
    "denser, few levels": (sparse(RNG, GRID, 0.3), "sparse levels"),
    "sparse, any values": (sparse(RNG, RNG.standard_normal(5000)), "sparse"),
    "binary": (np.where(RNG.random((200, 300)) < 0.5, F(-0.1), F(0.1)), "levels"),
    "ternary": (RNG.choice(np.array([-0.2, 0, 0.2], F), (200, 300)), "levels"),
    "4 bits": (scaled_levels(RNG, 7, 0), "levels"),
    "8 bits, other axis": (scaled_levels(RNG, 127, 1), "levels"),
    "powers of two": (
        (RNG.choice(np.array([-1, 1]), (200, 300)) * 2.0 ** -RNG.geometric(0.5, (200, 300))).astype(
            F
        ),
        "levels",
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_packed_model_computes_the_same_and_runs_no_decoder(name, tmp_path):
    weight, kind = CONTENTS[name]
    model = product(weight)
    before = model_bytes(model)
    packed = model.clone()
    (done,) = pack_tensors(packed)
    assert (done.tensor, done.kind, done.dense_bytes) == ("w", kind, weight.nbytes)
    onnx.checker.check_model(model_bytes(packed), full_check=True)
    session, operators = optimized(packed, tmp_path)
    assert operators == ["MatMul"]
    x = RNG.standard_normal((3, 200)).astype(F)
    plain = ort.InferenceSession(before, providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"x": x})[0], plain.run(None, {"x": x})[0])
    assert done.packed_bytes < len(model_bytes(packed)) < len(before)
    assert done.packed_bytes <= 1.2 * done.entropy_bytes
    assert done.entropy_bytes <= done.packed_bytes * 1.0001


def test_names_and_tensors_of_branches_stay_theirs():
    """Older exporters number values, in branches too; what a branch holds isn't packed."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N,200] x, bool f) => (float[N,300] y) {
        m = MatMul(x, w)
        y = If (f) <
            then_branch = a () => (float[N,300] n3) { n1 = MatMul(x, v) n2 = Relu(n1) n3 = Add(n2, m) },
            else_branch = b () => (float[N,300] n5) { n4 = Neg(m) n5 = Relu(n4) }
        >
    }"""
    model = onnx.parser.parse_model(text)
    branches = [a.g for a in model.graph.node[1].attribute]
    # The parser takes no numbers for names.
    for graph in branches:
        for node in graph.node:
            node.input[:] = [i.removeprefix("n") for i in node.input]
            node.output[:] = [o.removeprefix("n") for o in node.output]
        graph.output[0].name = graph.output[0].name.removeprefix("n")
    weight = sparse(RNG, GRID)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    branches[0].initializer.append(onnx.numpy_helper.from_array(weight, "v"))
    plain = ir.from_proto(model)
    packed = plain.clone()
    assert [p.tensor for p in pack_tensors(packed)] == ["w"]
    feed = {"x": RNG.standard_normal((2, 200)).astype(F), "f": np.array(True)}
    before, after = (
        ort.InferenceSession(model_bytes(m), providers=["CPUExecutionProvider"]).run(None, feed)
        for m in (plain, packed)
    )
    assert np.array_equal(*before, *after)


def test_a_whole_file_of_one_sparse_layer_is_near_its_entropy():
    """Decoders, calls and names included: 3,600 weights of 4 bits among 400,000."""
    rng = np.random.default_rng(0)
    dense = np.zeros(500 * 800, F)
    dense[rng.choice(dense.size, 3600, replace=False)] = rng.choice(GRID, 3600)
    packed = product(dense.reshape(500, 800))
    (done,) = pack_tensors(packed)
    assert len(model_bytes(packed)) <= 1.2 * done.entropy_bytes


@pytest.mark.parametrize("name", CONTENTS)
def test_a_packed_model_is_read_back(name):
    weight, _ = CONTENTS[name]
    packed = product(weight)
    pack_tensors(packed)
    loaded = ir.from_proto(onnx.load_from_string(model_bytes(packed)))
    assert unpack_tensors(loaded) == ["w"]
    held = loaded.graph.initializers
    assert list(held) == ["w"]
    assert np.array_equal(held["w"].const_value.numpy(), weight)
    assert not loaded.functions
    assert DOMAIN not in loaded.opset_imports


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.float32, np.float16, np.float64, np.int8, np.int32, np.uint8]),
    st.integers(1, 40),
    st.floats(0, 1),
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
)
def test_any_tensor_is_read_back_as_it_was(seed, dtype, levels, zeros, shape):
    rng = np.random.default_rng(seed)
    shape = [*shape, math.ceil(5000 / math.prod(shape))]
    values = rng.integers(0, 100, levels).astype(dtype)
    content = rng.choice(values, shape) * (rng.random(shape) >= zeros)
    content = content.astype(dtype)
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (int64 i) => (int64[N] y) { y = Shape(w) }'
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(content, "w"))
    packed = ir.from_proto(model)
    done = pack_tensors(packed)
    assert len(model_bytes(packed)) < len(model.SerializeToString()) or not done
    unpack_tensors(packed)
    assert np.array_equal(packed.graph.initializers["w"].const_value.numpy(), content)
    assert packed.graph.initializers["w"].const_value.numpy().dtype == dtype


@pytest.mark.parametrize(("opset", "ir_version"), [(11, 8), (17, 7)])
def test_old_formats_stay_as_they_are(opset, ir_version):
    model = product(CONTENTS["binary"][0], opset, ir_version)
    before = model_bytes(model)
    assert pack_tensors(model) == []
    assert model_bytes(model) == before


def test_dense_random_weights_stay_as_they_are():
    model = product(RNG.standard_normal((50, 60)).astype(F))
    before = model_bytes(model)
    assert pack_tensors(model) == []
    assert model_bytes(model) == before


def test_an_int8_model_is_packed_and_still_fused(tmp_path):
    weight = sparse(RNG, range(-7, 8), 0.05).astype(np.int8)
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N,200] x) => (float[N,300] y)
        <float s = {0.02}, uint8 z = {128}, float t = {0.01}, int8 o = {0}> {
        a = QuantizeLinear(x, s, z)
        b = DequantizeLinear(a, s, z)
        v = DequantizeLinear(w, t, o)
        m = MatMul(b, v)
        c = QuantizeLinear(m, s, z)
        y = DequantizeLinear(c, s, z)
    }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    plain = ir.from_proto(model)
    packed = plain.clone()
    assert [p.tensor for p in pack_tensors(packed)] == ["w"]
    assert optimized(packed, tmp_path)[1] == optimized(plain, tmp_path)[1]


def test_a_foreign_function_of_our_domain_is_not_taken_for_ours():
    packed = product(CONTENTS["binary"][0])
    pack_tensors(packed)
    proto = onnx.load_from_string(model_bytes(packed))
    lookup = next(f for f in proto.functions if f.name == "lookup")
    lookup.node[0].op_type = "Identity"
    loaded = ir.from_proto(proto)
    assert unpack_tensors(loaded) == []
    assert DOMAIN in loaded.opset_imports


@pytest.mark.parametrize(
    ("function", "attribute", "value"),
    [("base", "p", [2, 2**40]), ("base", "p", [0]), ("lookup", "s", [2**40, 3])],
)
def test_a_decoder_that_asks_for_too_much_is_left_alone(function, attribute, value):
    packed = product(CONTENTS["binary"][0])
    pack_tensors(packed)
    node = next(n for n in packed.graph if n.op_type == function)
    node.attributes[attribute] = ir.convenience.convert_attribute(attribute, value)
    assert unpack_tensors(packed) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 127), st.integers(0, 1))
def test_scales_are_found(seed, top, axis):
    rng = np.random.default_rng(seed)
    levels = rng.integers(-top, top + 1, (6, 9)).astype(F)
    scales = rng.uniform(1e-4, 10, (6, 1) if axis == 0 else (1, 9)).astype(F)
    weight = levels * scales
    found = find_scales(weight, axis)
    assert found is not None
    assert np.array_equal(found[0].astype(F) * found[1], weight)


def test_no_scales_are_found_for_any_weights():
    assert find_scales(RNG.standard_normal((6, 200)).astype(F), 0) is None
