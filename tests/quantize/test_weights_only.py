"""Weights on levels as integers: the same numbers to the last bit, in fewer bytes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxadmm.bench import open_session
from onnxadmm.graph import model_bytes
from onnxadmm.quantize import OnLevels, store_levels


def network(opset):
    b = Builder(0, 3, 8, opset)
    b.conv(16)
    b.activation("Relu")
    b.head("flatten")
    return b.model()


def on_levels(model, largest, axis, rng):
    """Put the model's matrices on levels, and return them as training does."""
    found = {}
    for name, value in model.graph.initializers.items():
        if value.const_value.numpy().ndim < 2:
            continue
        shape = value.const_value.shape.numpy()
        codes = rng.integers(-largest, largest + 1, shape).astype(np.float32)
        scales = [1] * len(shape)
        if axis is not None:
            scales[axis] = shape[axis]
        spread = rng.uniform(0.001, 0.1, scales).astype(np.float32)
        value.const_value = ir.tensor(codes * spread, name=name)
        found[name] = OnLevels(codes, spread)
    return found


@settings(max_examples=25, deadline=None)
@given(
    opset=st.sampled_from([12, 17, 21]),
    largest=st.sampled_from([1, 7, 8, 127, 128]),
    axis=st.sampled_from([None, 0, 1]),
    seed=st.integers(0, 99),
)
def test_what_is_stored_computes_the_same_and_is_smaller(opset, largest, axis, seed):
    rng = np.random.default_rng(seed)
    model = network(opset)
    model.ir_version = 10 if opset == 21 else 8
    trained = on_levels(model, largest, axis, rng)
    before = model_bytes(model)
    stored, names = store_levels(model, trained)
    assert model_bytes(model) == before
    if opset < 13 and axis is not None:
        assert names == []
        assert stored is model
        return
    fits = {n for n, t in trained.items() if np.abs(t.codes).max() <= 127}
    # A small one would not get smaller by it.
    assert {n for n in fits if trained[n].codes.size >= 400} <= set(names) <= fits
    after = model_bytes(stored)
    onnx.checker.check_model(onnx.load_from_string(after), full_check=True)
    feed = {"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)}
    (expected,), (got,) = (open_session(b).run(None, feed) for b in (before, after))
    assert np.allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    kinds = {stored.graph.initializers[f"{n}_q"].dtype for n in names}
    four = opset == 21 and largest <= 7
    assert kinds <= {ir.DataType.INT4 if four else ir.DataType.INT8}
    assert not names or len(after) <= 0.6 * len(before)


@pytest.mark.parametrize("change", ["content", "output"])
def test_what_is_held_otherwise_by_now_stays(change):
    model = network(17)
    trained = on_levels(model, 7, 0, np.random.default_rng(0))
    first = next(iter(trained))
    value = model.graph.initializers[first]
    if change == "content":
        value.const_value = ir.tensor(value.const_value.numpy() * 2 + 1, name=first)
    else:
        model.graph.outputs.append(value)
    _, names = store_levels(model, trained)
    assert first not in names
    assert names
