"""Weights trained onto levels: the written model lies on them exactly, and what was pruned stays zero."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from stopping import StopAfter

import onnxadmm
from onnxadmm.compact import unpack_tensors
from onnxadmm.errors import Interrupted
from onnxadmm.graph import model_bytes
from onnxadmm.quantize import power_levels, project_levels, uniform_levels

SPARSE = '{layers: "conv*", structure: unstructured, amount: 0.6}'
TERNARY = '{layers: "*", weights: {levels: ternary, granularity: tensor}}'


def compressed(workplace, prune, quantize, *more, **kwargs):
    overrides = [f"prune=[{prune}]", f"quantize=[{quantize}]", "gates={}", "benchmark.providers=[]"]
    return onnxadmm.compress(
        workplace / "model.onnx",
        workplace / "spec.yaml",
        overrides=[*overrides, "schedule.retrain=1", *more],
        **kwargs,
    )


def layers(model):
    """Return (weight, its axis of outputs) of each layer."""
    proto = onnx.load_from_string(model_bytes(model))
    held = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear":
            codes, scale = (held[n] for n in node.input[:2])
            shape = [1] * codes.ndim
            shape[next((a.i for a in node.attribute if a.name == "axis"), 0)] = -1
            scale = scale.reshape(shape) if scale.ndim else scale
            held[node.output[0]] = codes.astype(np.float32) * scale
    found = []
    for node in proto.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            found.append((held[node.input[1]], 0 if node.op_type == "Conv" or transposed else 1))
    return found


def assert_on_levels(weight, axis, levels):
    rows = weight[None] if axis is None else np.moveaxis(weight, axis, 0)
    rows = rows.reshape(len(rows), -1)
    codes, scales = project_levels(rows, levels, rows != 0)
    exact = codes.astype(np.float32) * scales.astype(np.float32)[:, None]
    # The scale that is found again may differ from the trained one in its last bit.
    assert np.allclose(exact, rows, rtol=3e-7, atol=0)
    assert all(len(np.unique(np.abs(row))) <= len(levels) + 1 for row in rows)


@pytest.fixture(scope="module")
def ternary(workplace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ternary")
    return compressed(workplace, SPARSE, TERNARY, "schedule.quantize=3", output=folder), folder


def test_every_weight_is_on_its_levels_and_pruned_zeros_are_kept(ternary):
    result, _ = ternary
    assert len(layers(result.model)) == 4
    for weight, _axis in layers(result.model):
        magnitudes = np.unique(np.abs(weight))
        assert len(magnitudes) == 2
        assert magnitudes[0] == 0
        if weight.ndim == 4:
            assert np.count_nonzero(weight) <= round(0.4 * weight.size)
    assert result.report.verification.passed


def test_pruning_comes_first_then_the_inner_layers_and_the_ends_last(ternary):
    history = ternary[0].report.history
    stages = [(e.stage, e.step) for e in history]
    pruning = [("admm", 1), ("admm", 1), ("retrain", 1)]
    assert stages == [*pruning, ("admm", 2), ("admm", 2), ("admm", 3), ("retrain", 3)]
    names = [set(e.constraints) for e in history if e.stage == "admm"]
    inner, ends = names[3], names[4]
    assert all(n.startswith("levels of") for n in inner | ends)
    assert (len(inner), len(ends), len(inner & ends)) == (2, 2, 0)
    assert all(e.primal is not None and e.rho for e in history if e.stage == "admm")


# 512 samples in batches of 32: the levels' stage is steps 49 to 112.
@pytest.mark.parametrize("steps", [60, 90, 100], ids=["inner", "ends", "on levels"])
def test_resumed_in_the_midst_the_weights_are_the_same_bit_for_bit(
    ternary, workplace, tmp_path, steps
):
    whole = model_bytes(ternary[0].model)
    given = (workplace, SPARSE, TERNARY, "schedule.quantize=3")
    with pytest.raises(Interrupted):
        compressed(*given, output=tmp_path, stop=StopAfter(steps))
    assert any((tmp_path / "checkpoints" / "levels").glob("*.json"))
    assert model_bytes(compressed(*given, output=tmp_path, resume=True).model) == whole


@pytest.mark.parametrize(
    ("weights", "levels", "axes", "epochs"),
    [
        ("{levels: binary, granularity: tensor}", (1.0,), False, 1),
        ("{levels: binary}", (1.0,), True, 0),
        ("{bits: 3}", uniform_levels(3), True, 1),
        ("{levels: powers_of_two}", power_levels(4), True, 0),
    ],
)
def test_weights_alone_lie_on_the_levels_asked_for(workplace, weights, levels, axes, epochs):
    entry = f'{{layers: "*", weights: {weights}}}'
    result = compressed(
        workplace, SPARSE, entry, "schedule.epochs=0", f"schedule.quantize={epochs}"
    )
    for weight, axis in layers(result.model):
        assert_on_levels(weight, axis if axes else None, levels)
        if weight.ndim == 4:
            assert np.count_nonzero(weight) <= round(0.4 * weight.size)
    proto = onnx.load_from_string(model_bytes(result.model))
    stored = [n.input[0] for n in proto.graph.node if n.op_type == "DequantizeLinear"]
    assert stored
    kinds = {i.name: i.data_type for i in proto.graph.initializer}
    assert {kinds[n] for n in stored} == {onnx.TensorProto.INT8}
    assert not any(n.op_type == "QuantizeLinear" for n in proto.graph.node)


def test_levels_that_were_trained_are_those_of_the_int8_weights(workplace):
    entry = '{layers: "*", weights: {bits: 4}, activations: {bits: 8}}'
    result = compressed(
        workplace, "{structure: channel, amount: 0.5}", entry, "schedule.quantize=2"
    )
    proto = onnx.load_from_string(model_bytes(result.model))
    held = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    stored = []
    for node in proto.graph.node:
        content = held.get(node.input[0])
        if node.op_type == "DequantizeLinear" and content is not None and content.dtype == np.int8:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            codes, scales = held[node.input[0]], held[node.input[1]]
            shape = [-1 if i == axis else 1 for i in range(codes.ndim)]
            assert np.abs(codes).max() <= 7
            stored.append(codes.astype(np.float32) * scales.reshape(shape))
    floats = [w for w, _ in layers(result.pruned)]
    assert len(stored) == len(floats) == 4
    assert all(any(np.array_equal(s, f) for s in stored) for f in floats)


def test_without_data_weights_are_projected_and_packed(workplace, tmp_path):
    spec = {
        "version": 1,
        "quantize": [{"weights": {"bits": 4, "granularity": "tensor"}}],
        "pack": "auto",
        "benchmark": {"providers": []},
    }
    plain = onnxadmm.compress(workplace / "model.onnx", {**spec, "pack": "none"})
    assert any("pack: auto" in w for w in plain.report.warnings)
    result = onnxadmm.compress(workplace / "model.onnx", spec)
    assert not any("pack: auto" in w for w in result.report.warnings)
    assert result.report.compressed.file_bytes < 0.5 * result.report.original.file_bytes
    whole = result.model.clone()
    unpack_tensors(whole)
    for weight, _axis in layers(whole):
        assert_on_levels(weight, None, uniform_levels(4))
