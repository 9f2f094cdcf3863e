"""Models in float16, bfloat16 and double: worked on in float32, returned in their own types."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import onnxadmm
from onnxadmm.bench import open_session
from onnxadmm.errors import DivergedError, UnsupportedError
from onnxadmm.graph import constant_of, model_bytes, narrow, widen

TYPES = {"float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}
SPEC = {
    "version": 1,
    "prune": [{"structure": "channel", "amount": 0.5}],
    "benchmark": {"providers": []},
}
EPSILON = {"float16": 2e-2, "float64": 1e-5}


def network(kind: str, seed: int = 3) -> ir.Model:
    """Return a small network whose weights, input and output are of this type."""
    b = Builder(seed, 2, 6)
    if kind == "float16":  # ONNX Runtime has no convolution of doubles on the CPU
        b.conv(12)
        b.batchnorm()
        b.activation("Relu")
        b.pool()
        b.residual()
        b.head("flatten")
    else:
        b.value = b.node("Flatten", b.value)
        for width, before in ((12, 72), (20, 12)):
            w = b.weight(width, before)
            b.value = b.node("Gemm", b.value, w, b.weight(width), transB=1)
            b.activation("Relu")
        b.value = b.node("MatMul", b.value, b.weight(20, 5))
    proto = ir.to_proto(b.model())
    for t in proto.graph.initializer:
        if t.data_type == TensorProto.FLOAT:
            content = numpy_helper.to_array(t).astype(kind)
            if kind == "float64":
                content += b.rng.standard_normal(content.shape) * 1e-12
            t.CopyFrom(numpy_helper.from_array(content, t.name))
    del proto.graph.value_info[:]
    for v in (*proto.graph.input, *proto.graph.output):
        v.type.tensor_type.elem_type = TYPES[kind]
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)


def contents(model: ir.Model) -> dict[str, np.ndarray]:
    return {n: constant_of(v) for n, v in model.graph.initializers.items()}


def difference(a: ir.Model, b: ir.Model, x: np.ndarray) -> float:
    answers = []
    for model in (a, b):
        session = open_session(model_bytes(model))
        (given_,) = session.get_inputs()
        fed = x.astype({"tensor(float)": "f4", "tensor(float16)": "f2"}.get(given_.type, "f8"))
        answers.append(session.run(None, {given_.name: fed})[0].astype(np.float64))
    return float(np.abs(answers[0] - answers[1]).max() / np.abs(answers[0]).max())


@pytest.mark.parametrize("kind", TYPES)
def test_the_float32_form_computes_the_same_and_comes_back_as_it_was(kind):
    model = network(kind)
    wide = widen(model)
    x = np.random.default_rng(0).standard_normal((4, 2, 6, 6))
    assert difference(model, wide, x) < EPSILON[kind]
    assert {c.dtype.name for c in contents(wide).values()} <= {"float32", "int64"}
    assert model_bytes(narrow(wide, model, contents(model))) == model_bytes(model)


@pytest.mark.parametrize("kind", TYPES)
def test_one_shot_leaves_a_model_of_the_same_type_with_the_bits_of_what_stays(kind):
    model = network(kind)
    result = onnxadmm.compress(model, SPEC)
    assert result.report.verification.cut_vs_masked_max_error <= 1e-5
    before, after = contents(model), contents(result.model)
    assert {c.dtype.name for c in after.values()} == {c.dtype.name for c in before.values()}
    assert result.model.graph.inputs[0].dtype == TYPES[kind]
    assert result.model.graph.outputs[0].dtype == TYPES[kind]
    first = next(iter(before))
    assert (len(before[first]), len(after[first])) == (12, 6)
    filters = {f.tobytes() for f in before[first]}
    assert all(f.tobytes() in filters for f in after[first])
    assert result.report.ratios.parameters > 1.3


@pytest.mark.parametrize("kind", TYPES)
def test_training_moves_the_weights_and_the_result_runs_in_its_own_type(kind, tmp_path):
    model = network(kind)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((128, 2, 6, 6)).astype(kind)
    (y,) = open_session(model_bytes(model)).run(None, {"x": x})
    np.savez(tmp_path / "d.npz", x=x, y=y.argmax(1))
    path = str(tmp_path / "d.npz")
    both = {"inputs": {"x": path}, "labels": path}
    spec = {
        **SPEC,
        "data": {"train": both, "evaluate": both, "batch_size": 32},
        "schedule": {"epochs": 1, "retrain": 4, "updates_per_epoch": 2},
    }
    result = onnxadmm.compress(model, spec)
    assert result.report.verification.import_max_error <= 1e-4
    shot = onnxadmm.compress(model, SPEC)
    one, two = contents(shot.model), contents(result.model)
    weights = [n for n in two if n in one and two[n].dtype == kind and n.startswith("w")]
    assert any(not np.array_equal(one[n], two[n]) for n in weights)
    (got,) = open_session(model_bytes(result.model)).run(None, {"x": x})
    assert got.dtype == kind
    accuracy = (got.argmax(1) == y.argmax(1)).mean()
    assert accuracy == pytest.approx(result.report.compressed.metrics["accuracy"], abs=0.02)
    (shot_got,) = open_session(model_bytes(shot.model)).run(None, {"x": x})
    assert accuracy >= (shot_got.argmax(1) == y.argmax(1)).mean()


def test_int8_is_refused_at_once_where_no_weight_is_float32():
    nothing = {"inputs": {"x": "none.npz"}, "labels": "none.npz"}
    spec = {**SPEC, "data": {"train": nothing}, "quantize": [{"layers": "*"}]}
    with pytest.raises(UnsupportedError, match="float16"):
        onnxadmm.compress(network("float16"), spec)


def test_weights_that_are_stored_in_bfloat16_behind_a_cast_come_back_in_bfloat16():
    rng = np.random.default_rng(1)
    kind = ir.DataType.BFLOAT16
    first, second = (rng.standard_normal(s).astype(kind.numpy()) for s in ((8, 6), (6, 4)))
    nodes = [
        helper.make_node("Cast", ["a"], ["a32"], name="ca", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "a32"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Cast", ["b"], ["b32"], name="cb", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["r", "b32"], ["y"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
    )
    model = ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )
    for name, content in (("a", first), ("b", second)):
        tensor = ir.tensor(content, name=name)
        value = next(v for n in model.graph for v in n.inputs if v and v.name == name)
        value.const_value, value.dtype, value.shape = tensor, kind, ir.Shape(content.shape)
        model.graph.register_initializer(value)
    result = onnxadmm.compress(model, SPEC)
    after = {n: v.const_value for n, v in result.model.graph.initializers.items()}
    assert {t.dtype for t in after.values()} == {kind}
    assert [tuple(after[n].shape.numpy()) for n in "ab"] == [(8, 3), (3, 4)]
    columns = {c.tobytes() for c in first.T}
    assert all(c.tobytes() in columns for c in np.ascontiguousarray(after["a"].numpy().T))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.data())
def test_only_elements_that_changed_are_rounded(data):
    kind = data.draw(st.sampled_from(["float16", "float64"]))
    width = 16 if kind == "float16" else 32
    numbers = st.floats(-1e4, 1e4, width=width, allow_subnormal=False)
    held = np.array(data.draw(st.lists(numbers, min_size=3, max_size=8)), kind)
    held *= np.dtype(kind).type(1 + 1e-9 * (kind == "float64"))
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"], name="add")],
        "g",
        [helper.make_tensor_value_info("x", TYPES[kind], ["N", len(held)])],
        [helper.make_tensor_value_info("y", TYPES[kind], ["N", len(held)])],
        [numpy_helper.from_array(held, "w")],
    )
    model = ir.from_proto(helper.make_model(graph, ir_version=8))
    wide = widen(model)
    place = data.draw(st.integers(0, len(held) - 1))
    master = np.array(constant_of(wide.graph.initializers["w"]))
    master[place] += np.float32(1.25)
    wide.graph.initializers["w"].const_value = ir.tensor(master, name="w")
    back = contents(narrow(wide, model, {"w": held}))["w"]
    expected = held.copy()
    if master[place] != np.float32(held[place]):
        expected[place] = master[place].astype(kind)
    assert back.tobytes() == expected.tobytes()


def test_a_weight_that_outgrows_its_type_is_refused_by_name():
    model = network("float16")
    wide = widen(model)
    name = "w1"
    content = np.array(constant_of(wide.graph.initializers[name]))
    content[0, 0, 0, 0] = 1e5
    wide.graph.initializers[name].const_value = ir.tensor(content, name=name)
    with pytest.raises(DivergedError, match=r"'w1'.*float16"):
        narrow(wide, model, contents(model))
