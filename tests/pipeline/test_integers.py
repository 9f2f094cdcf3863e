"""int8: the sign that runs faster here, and layers that stay float where int8 would break the limit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from graphs import Builder
from hypothesis import given
from hypothesis import strategies as st

import onnxadmm
from onnxadmm.bench import open_session
from onnxadmm.graph import model_bytes
from onnxadmm.pipeline import integers
from onnxadmm.pipeline.integers import fewest


@given(count=st.integers(1, 60), least=st.integers(1, 70))
def test_the_fewest_that_hold_are_found_with_few_questions(count, least):
    asked = []

    def holds(n):
        asked.append(n)
        return n >= least

    assert fewest(holds, count) == min(count, least)
    assert all(0 < n < count for n in asked)
    assert len(asked) == len(set(asked)) <= 2 * count.bit_length() + 1


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Return a folder with a model whose second layer int8 harms: one channel is a thousand times larger."""
    folder = tmp_path_factory.mktemp("uneven")
    b = Builder(16, 2, 6)
    b.conv(6)
    b.activation("Relu")
    factors = np.ones((1, 6, 1, 1), np.float32)
    factors[0, 0] = 3000
    b.value = b.node("Mul", b.value, b.constant(factors, np.float32))
    weight = b.rng.standard_normal((8, 6, 3, 3)).astype(np.float32) / 2
    weight[:, 0] /= 3000
    b.value = b.node("Conv", b.value, b.constant(weight, np.float32), pads=[1, 1, 1, 1])
    b.channels = 8
    b.activation("Relu")
    b.head("flatten")
    model = b.model()
    (folder / "model.onnx").write_bytes(model_bytes(model))
    session = open_session(model_bytes(model))
    rng = np.random.default_rng(0)
    for name, count in (("train", 128), ("test", 256)):
        x = 3 * rng.standard_normal((count, 2, 6, 6)).astype(np.float32)
        np.savez(folder / f"{name}.npz", x=x, y=session.run(None, {"x": x})[0].argmax(1))
    return folder


def in_int8(folder, drop, **activations):
    split = {n: {"inputs": {"x": f"{n}.npz"}, "labels": f"{n}.npz"} for n in ("train", "test")}
    spec = {
        "version": 1,
        "data": {"train": split["train"], "evaluate": split["test"]},
        "quantize": [{"activations": {"calibrate": "minmax", **activations}}],
        "benchmark": {"providers": []},
        "gates": {"max_drop": {"accuracy": {"absolute": drop, "by": "value"}}},
    }
    path = folder / "spec.yaml"
    path.write_text(json.dumps(spec))
    return onnxadmm.compress(folder / "model.onnx", path)


def test_only_the_layers_that_int8_harms_stay_float(uneven):
    result = in_int8(uneven, 0.06)
    assert result.passed
    said = [w for w in result.report.warnings if "stay float" in w]
    assert len(said) == 1
    assert (
        "1 of 3 layers stay float (conv" in said[0] or "1 of 4 layers stay float (conv" in said[0]
    )
    convs = [n for n in result.model.graph if n.op_type == "Conv"]
    read = [n.inputs[1].producer() for n in convs]
    assert [r is not None and r.op_type == "DequantizeLinear" for r in read] == [True, False]


def test_all_layers_are_int8_where_the_limit_allows_it(uneven):
    result = in_int8(uneven, 1.0)
    assert not any("float" in w for w in result.report.warnings)
    convs = [n for n in result.model.graph if n.op_type == "Conv"]
    assert all(n.inputs[1].producer().op_type == "DequantizeLinear" for n in convs)


@pytest.mark.parametrize("faster", [True, False, None])
def test_activations_take_the_sign_that_runs_faster_unless_the_spec_says(
    uneven, monkeypatch, faster
):
    monkeypatch.setattr(integers, "signed_is_faster", lambda provider, threads: faster)
    for settings, signed in (({}, bool(faster)), ({"signed": False}, False)):
        model = in_int8(uneven, 1.0, **settings).model
        zeros = [
            n.inputs[2].const_value.numpy() for n in model.graph if n.op_type == "QuantizeLinear"
        ]
        assert {z.dtype.name for z in zeros} == {"int8" if signed else "uint8"}
