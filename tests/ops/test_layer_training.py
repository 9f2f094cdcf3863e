"""Layers train: gradients reach the original tensors, and the module survives being copied."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from cases_layers import CASES, SEQUENCE, X, f, recurrent
from cases_rarer import REGIONS
from test_contract import behind_a_layer, cases, data_for, model_of

from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import constant_of, probe
from onnxadmm.modules import compare_with_runtime, import_model

HEADS = [f(2, 2, 3, 4), f(2, 2, 3, 4)]
TRAINABLE = [
    ("ConvTranspose", 11),
    ("LayerNormalization", 17),
    ("RMSNormalization", 23),
    ("GroupNormalization", 21),
    ("InstanceNormalization", 6),
    ("LSTM", 14),
    ("GRU", 14),
    ("RNN", 14),
    *((op, 17) for op in CASES if op.startswith("com.microsoft.")),
]


@pytest.mark.parametrize(("op", "opset"), TRAINABLE)
def test_gradients_reach_every_weight_in_its_original_layout(op, opset):
    for model, seen in cases(op, opset):
        try:
            imported = import_model(model, seen)
        except UnsupportedError:
            continue
        module = copy.deepcopy(imported.module)
        given = torch.from_numpy(data_for(model, op))
        outputs = module(given.requires_grad_(given.is_floating_point()))
        sum(o.square().sum() for o in outputs).backward()
        held = {n: constant_of(v) for n, v in model.graph.initializers.items()}
        for name, parameter in imported.binding.items():
            np.testing.assert_array_equal(parameter.detach().numpy(), held[name])
        for parameter in module.parameters():
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.any()


COMPUTED = """
            m = ReduceMean<keepdims = 1>(r, over)
            d = Sub(r, m)
            s = Mul(d, d)
            v = ReduceMean<keepdims = 0>(s, over)
            c = ReduceMean<keepdims = 0>(r, over)
            z = BatchNormalization<epsilon = 1e-6>(r, gain, zero, c, v)"""
ITS_OWN = (
    "z, c, v = BatchNormalization<epsilon = 1e-6, training_mode = 1>(r, gain, zero, zero, gain)"
)


@pytest.mark.parametrize("standardised", [COMPUTED, ITS_OWN])
def test_statistics_that_the_graph_computes_pass_a_gradient(standardised):
    """A convolution whose filters are standardised, as dynamo's exporter and the older one write it (arXiv 1903.10520)."""
    rng = np.random.default_rng(0)
    held = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "rows": np.array([1, 4, 27]),
        "back": np.array([4, 3, 3, 3]),
        "over": np.array([0, 2]),
        "gain": rng.standard_normal(4).astype(np.float32),
        "zero": np.zeros(4, np.float32),
    }
    graph = onnx.parser.parse_graph(
        """g (float[n, 3, 8, 8] x) => (float[n, 4, 6, 6] y) {
            r = Reshape(w, rows)
            STANDARDISED
            k = Reshape(z, back)
            y = Conv(x, k)
        }""".replace("STANDARDISED", standardised)
    )
    graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in held.items())
    opset = [onnx.helper.make_opsetid("", 18)]
    model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8))
    imported = import_model(model, probe(model))
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    assert compare_with_runtime(model, imported, {"x": x}).error < 1e-5

    def loss(weight):
        with torch.no_grad():
            imported.binding["w"].copy_(weight)
        return imported.module(torch.from_numpy(x))[0].square().mean()

    start = torch.from_numpy(held["w"])
    loss(start).backward()
    gradient = imported.binding["w"].grad
    step = 1e-2 * torch.from_numpy(rng.standard_normal(held["w"].shape).astype(np.float32))
    found = (loss(start + step) - loss(start - step)).item() / 2
    assert found == pytest.approx((gradient * step).sum().item(), rel=2e-2)


def test_rounding_has_the_gradient_of_the_identity():
    from onnxadmm.ops.quantization import dequantize, quantize

    x = torch.linspace(-3, 3, 12, requires_grad=True)
    scale, zero = torch.tensor(0.01), torch.tensor(5, dtype=torch.int8)
    q = quantize(x, scale, zero, 0, (-128, 127))
    torch.testing.assert_close(q, q.round())
    dequantize(q, scale, zero, 0).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(12))


def test_dynamic_quantization_of_zeros_stays_finite():
    from onnxadmm.ops.quantization import quantize_range

    levels, scale, zero = quantize_range(torch.zeros(3))
    assert (levels.tolist(), scale.item(), zero.item()) == ([0, 0, 0], 1, 0)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_a_layer_that_runs_by_sample_is_the_other_transposed(op, gates):
    """ONNX Runtime has no kernel for it: the standard's own tests have (tests/parity)."""
    attributes = {"hidden_size": 3, "direction": "bidirectional"}
    model = model_of(op, 14, (SEQUENCE, recurrent(gates, 2), attributes, 2))
    seen = probe(model)
    x = torch.from_numpy(data_for(model, op))
    y, last = import_model(model, seen).module(x)
    node = next(iter(model.graph))
    node.attributes["layout"] = ir.AttrInt64("layout", 1)
    by_sample, last_by_sample = import_model(model, seen).module(x.transpose(0, 1))
    torch.testing.assert_close(by_sample, y.permute(2, 0, 1, 3))
    torch.testing.assert_close(last_by_sample, last.transpose(0, 1))


@pytest.mark.parametrize(
    ("op", "opset", "case", "reason"),
    [
        ("Attention", 23, ((2, 2, 3, 4), HEADS, {"softmax_precision": 11}, 1), "softmax_precision"),
        ("RoiAlign", 16, (X, REGIONS, {"mode": "max"}, 1), "mode 'max'"),
    ],
)
def test_what_is_left_to_onnx_runtime_is_refused_behind_what_is_trained(op, opset, case, reason):
    model = model_of(op, opset, case)
    seen = probe(model)
    assert len(import_model(model, seen).frozen) == 1
    with pytest.raises(UnsupportedError, match=reason):
        import_model(behind_a_layer(model, seen), seen)


@pytest.mark.parametrize("kind", [17, 18, 19, 20], ids=["e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz"])
def test_floats_of_a_byte_are_trained_through(kind):
    text = f"""
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N, 4] x) => (float[N, 4] y) <float[4, 4] w, float s = {{0.3}}> {{
        h = MatMul(x, w)
        q = QuantizeLinear<output_dtype = {kind}>(h, s)
        y = DequantizeLinear(q, s)
    }}"""
    proto = onnx.parser.parse_model(text)
    del proto.graph.initializer[:]
    held = {"w": 20 * f(4, 4), "s": np.float32(0.3)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in held.items())
    model = ir.from_proto(proto)
    imported = import_model(model, probe(model))
    assert not imported.frozen
    assert compare_with_runtime(model, imported, {"x": 9 * f(5, 4)}).error < 1e-5
    imported.module(torch.ones(1, 4))[0].sum().backward()
    assert torch.equal(imported.binding["w"].grad, torch.ones(4, 4))


@pytest.mark.parametrize(
    ("op", "opset", "macs"),
    [
        ("ConvTranspose", 11, 2 * 4 * 36 * 5 * 9),
        ("LSTM", 14, 3 * 2 * (12 * 4 + 12 * 3)),
        ("Attention", 23, (2 * 2 * 3 * 4 + 2 * 2 * 3 * 6) * 5),
        ("com.microsoft.FusedMatMul", 17, 3 * 4 * 5),
    ],
)
def test_macs(op, opset, macs):
    from onnxadmm import ops

    model = model_of(op, opset, CASES[op][0])
    node = next(iter(model.graph))
    operator = ops.find(node, model.opset_imports)
    assert operator.macs(node, probe(model).shapes) == macs
