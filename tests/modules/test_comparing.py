"""The import check: strict at every node, and lenient about rounding that the model itself amplifies."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from onnxadmm.errors import VerificationError
from onnxadmm.graph import probe
from onnxadmm.modules import compare_with_runtime, import_model, write_back


def imported(text):
    model = ir.from_proto(onnx.parser.parse_model(text))
    found = import_model(model, probe(model))
    found.module.eval()
    return model, found


NEARLY_CONSTANT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 4096] x) => (float[n, 4096] y) <float tiny = {1e-12}, float two = {2.0}> {
    square = Mul(x, x)
    first = ReduceMean<axes = [1], keepdims = 1>(square)
    mean = ReduceMean<axes = [1], keepdims = 1>(x)
    second = Mul(mean, mean)
    variance = Sub(first, second)
    size = Abs(variance)
    safe = Add(size, tiny)
    std = Sqrt(safe)
    centred = Sub(x, mean)
    y = Div(centred, std)
}
"""
SATURATED = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 4] x) => (float[n, 4] y) <float[4] b = {-15.5, -16.0, -16.5, -17.0}> {
    logits = Add(x, b)
    y = Sigmoid(logits)
}
"""


def test_rounding_that_the_model_amplifies_is_no_wrong_import():
    model, found = imported(NEARLY_CONSTANT)
    rng = np.random.default_rng(0)
    x = (10 + 1e-3 * rng.standard_normal((2, 4096))).astype(np.float32)
    parity = compare_with_runtime(model, found, {"x": x})
    assert parity.outputs > 1e-4
    assert parity.nodes is not None
    assert parity.error == parity.nodes < 1e-5


@pytest.mark.parametrize("last", ["", "ReduceMean<axes = [1]>", "Unsqueeze"])
def test_a_sigmoid_near_zero_is_judged_by_its_range(last):
    text = SATURATED
    if last:
        given = "(s, one)" if last == "Unsqueeze" else "(s)"
        text = text.replace("y = S", "s = S").replace("\n}", f"\n    y = {last}{given}\n}}")
        text = text.replace("> {", ", int64[1] one = {1}> {").replace("[n, 4] y", "[a, b] y")
        text = text.replace("[a, b] y", "[a, b, c] y") if last == "Unsqueeze" else text
    model, found = imported(text)
    parity = compare_with_runtime(model, found, {"x": np.zeros((1, 4), np.float32)})
    assert parity.nodes is None
    assert parity.outputs < 1e-6


def test_a_node_that_computes_something_else_is_named():
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n, 3] x) => (float[n, 2] y) <float[3, 2] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}> {
        a = Tanh(x)
        b = MatMul(a, w)
        y = Exp(b)
    }
    """
    model, found = imported(text)
    with torch.no_grad():
        found.binding["w"][0] += 1
    x = np.ones((2, 3), np.float32)
    with pytest.raises(VerificationError, match=r"at MatMul 'b'.*report the model"):
        compare_with_runtime(model, found, {"x": x})
    write_back(model, found.weights())
    assert compare_with_runtime(model, found, {"x": x}).error < 1e-6
