"""Model-local functions are written out for the work, and come back where nothing in them changed."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxadmm
from onnxadmm.bench import open_session
from onnxadmm.graph import calls, compare_outputs, inline_functions, model_bytes, restore_calls
from onnxadmm.graph.constants import set_constant

TEXT = """
<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
g (float[N, 4] x) => (float[N, 3] y) <float[4, 16] w, float[16, 3] v> {
    h = my.Layer(x, w)
    a, twice = my.Both(h)
    s = Add(a, twice)
    o = MatMul(s, v)
    y = my.Squash(o)
}
<domain: "my", opset_import: ["" : 17]> Squash (x) => (y) {
    half = Constant<value = float {0.5}>()
    z = Mul(x, half)
    y = Tanh(z)
}
<domain: "my", opset_import: ["" : 17, "my" : 1]> Layer (x, w) => (y) { m = MatMul(x, w)  y = my.Squash(m) }
<domain: "my", opset_import: ["" : 17]> Both (x) => (a, b) {
    a = Relu(x)
    size = Constant<value = int64[2] {-1, 16}>()
    flat = Reshape(x, size)
    b = Sigmoid(flat)
}"""


@pytest.fixture
def proto():
    found = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    del found.graph.initializer[:]
    for name, shape in (("w", (4, 16)), ("v", (16, 3))):
        content = rng.standard_normal(shape).astype(np.float32)
        found.graph.initializer.append(onnx.numpy_helper.from_array(content, name))
    for node in found.graph.node:
        node.name = f"node_{node.output[0]}"
        entry = node.metadata_props.add()
        entry.key, entry.value = "from", node.name
    return found


def run(content, x):
    return open_session(content).run(None, {"x": x})


def test_untouched_functions_come_back_as_they_were(proto):
    model = ir.from_proto(proto)
    before = ir.to_proto(model)
    calls = inline_functions(model)
    assert not model.functions
    assert all(not n.metadata_props.get("onnxadmm.call") for n in model.graph)
    restore_calls(model.clone(), calls)
    restore_calls(model, calls)
    after = ir.to_proto(model)
    assert [n.SerializeToString(deterministic=True) for n in after.graph.node] == [
        n.SerializeToString(deterministic=True) for n in before.graph.node
    ]
    functions = {f.name: f.SerializeToString(deterministic=True) for f in before.functions}
    assert {f.name: f.SerializeToString(deterministic=True) for f in after.functions} == functions
    x = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    assert compare_outputs(run(model_bytes(model), x), run(proto.SerializeToString(), x)) == 0.0


def test_a_function_that_changed_stays_written_out(proto):
    model = ir.from_proto(proto)
    calls = inline_functions(model)
    halves = [n.outputs[0] for n in model.graph if n.op_type == "Constant" and n.name]
    changed = next(
        v for v in halves if v.const_value is None or v.const_value.dtype == ir.DataType.FLOAT
    )
    set_constant(changed, np.float32(0.25))
    restore_calls(model, calls)
    kinds = [n.op_type for n in model.graph]
    # The first Layer calls Squash, whose number changed; the last Squash is one of its own.
    assert kinds.count("Layer") + kinds.count("Squash") == 1
    assert "Both" in kinds
    x = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    assert not np.array_equal(run(model_bytes(model), x)[0], run(proto.SerializeToString(), x)[0])


def test_compressing_keeps_the_functions_that_a_cut_leaves_alone(proto):
    model = ir.from_proto(proto)
    spec = {
        "version": 1,
        "prune": [{"structure": "channel", "amount": 0.5}],
        "benchmark": {"providers": []},
    }
    result = onnxadmm.compress(model, spec)
    kinds = [n.op_type for n in result.model.graph]
    assert "Layer" in kinds
    assert "Squash" in kinds
    assert "Both" not in kinds  # it holds the number of channels
    assert {key[1] for key in result.model.functions} == {"Layer", "Squash"}
    assert result.report.compressed.parameters == result.report.original.parameters / 2
    assert result.report.compressed.file_bytes == len(model_bytes(result.model))


def test_names_are_those_of_the_library_and_found_at_once(proto, monkeypatch):
    from onnx_ir.passes.common import inliner

    for node in (*proto.graph.node, *(n for f in proto.functions for n in f.node)):
        node.name = ""
    model = ir.from_proto(proto)
    quick = model.clone()
    inline_functions(quick)
    monkeypatch.setattr("onnxadmm.graph.calls._quick_names", contextlib.nullcontext)
    inline_functions(model)
    assert model_bytes(quick) == model_bytes(model)
    monkeypatch.undo()

    class Counting(set):
        asked = 0

        def __contains__(self, name):
            self.asked += 1
            return super().__contains__(name)

    used = Counting()
    with calls._quick_names():
        names = [inliner._make_unique_name("node", [], used) for _ in range(1000)]
    assert len(set(names)) == 1000
    assert used.asked < 4000
