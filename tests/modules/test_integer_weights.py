"""Weights stored in integers learn as a float master and come back as the nearest levels."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper

from onnxadmm import ops
from onnxadmm.graph import constant_of, model_bytes, probe
from onnxadmm.modules import compare_with_runtime, import_model, write_back
from onnxadmm.ops.masters import levels_of, master_of

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[N, 3] x) => (float[N, 4] y) {
    w = DequantizeLinear<axis = 1>(q, scale, zero)
    h = MatMul(x, w)
    b = DequantizeLinear(bias, small)
    y = Add(h, b)
}"""


def network(kind=np.int8, seed=0):
    rng = np.random.default_rng(seed)
    proto = onnx.parser.parse_model(TEXT)
    info = np.iinfo(kind)
    held = {
        "q": rng.integers(max(info.min, -128), min(info.max, 255) + 1, (3, 4)).astype(kind),
        "scale": rng.uniform(0.001, 0.1, 4).astype(np.float32),
        "zero": rng.integers(0, 3, 4).astype(kind),
        "bias": rng.integers(-(2**31), 2**31, 4).astype(np.int32),
        "small": np.float32(1e-9),
    }
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(a), n) for n, a in held.items()
    )
    return ir.from_proto(proto)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16])
def test_masters_learn_and_come_back_as_levels(kind):
    model = network(kind)
    imported = import_model(model, probe(model))
    assert {n: p.dtype for n, p in imported.binding.items()} == dict.fromkeys(
        ("q", "bias"), torch.float32
    )
    x = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    assert compare_with_runtime(model, imported, {"x": x}).error < 1e-5
    before = model_bytes(model)
    write_back(model, imported.weights())
    assert model_bytes(model) == before
    old = constant_of(ops.held(model)["q"]).copy()
    imported.module(torch.from_numpy(x))[0].square().sum().backward()
    with torch.no_grad():
        for parameter in imported.binding.values():
            assert torch.isfinite(parameter.grad).all()
            parameter.sub_(parameter.grad, alpha=0.1)
    write_back(model, imported.weights())
    new = constant_of(ops.held(model)["q"])
    assert new.dtype == kind
    assert (new != old).any()
    assert compare_with_runtime(model, imported, {"x": x}).error < 1e-5


@given(
    levels=hnp.arrays(np.int32, (4,), elements=st.integers(-(2**31), 2**31 - 1)),
    scale=st.floats(1e-12, 1e6),
    nudged=st.integers(0, 3),
)
def test_a_master_that_did_not_move_keeps_its_level(levels, scale, nudged):
    model = network()
    for name, content in (("bias", levels), ("small", np.float32(scale))):
        model.graph.initializers[name].const_value = ir.tensor(content, name=name)
    role = ops.roles(model)["bias"]
    master = master_of(role)
    assert np.array_equal(levels_of(role, master), levels)
    moved = master.copy()
    moved[nudged] = 0.0
    found = levels_of(role, moved)
    assert found[nudged] == 0
    assert np.array_equal(np.delete(found, nudged), np.delete(levels, nudged))
