"""The proof of graphs that take decisions: an order that rounding changes is no difference, a score is."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from onnxadmm.compact import TOLERANCE, prove
from onnxadmm.errors import VerificationError

X = {"x": np.array([[1.0, 1.0, 0.5, 0.25]], np.float32)}


def detector(first: float, second: float, after: float = 2.0) -> ir.Model:
    """Scores that are sorted; what was chosen is looked up and weighed."""
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        detector (float[N, 4] x) => (float[N, 2] chosen, int64[N, 2] index, float[N, 2] weighed)
        <float[4] w = {{{first!r}, {second!r}, 1.0, 1.0}}, int64[1] k = {{2}}, float f = {{{after}}}>
        {{
            scores = Mul (x, w)
            best, index = TopK (scores, k)
            chosen = GatherElements <axis=1> (scores, index)
            weighed = Mul (chosen, f)
        }}
    """
    return ir.from_proto(onnx.parser.parse_model(text))


def test_an_order_that_rounding_changes_is_no_difference():
    proof = prove(detector(1.0, 1.0000001), detector(1.0000001, 1.0), [X])
    assert 0 < proof.max_error <= TOLERANCE


@pytest.mark.parametrize("other", [detector(1.0, 1.5), detector(1.0000001, 1.0, after=2.1)])
def test_another_score_is_one_and_so_is_what_follows_the_decision(other):
    with pytest.raises(VerificationError, match="differs from the masked one"):
        prove(detector(1.0, 1.0000001), other, [X])


def test_arithmetic_on_sizes_is_no_decision():
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        sized (float[N, C] x) => (float[N, C] y) <float half = {0.5}, int64 one = {1}>
        {
            s = Shape (x)
            n = Gather (s, one)
            f = Cast <to=1> (n)
            h = Mul (f, half)
            g = Floor (h)
            y = Add (x, g)
        }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    wrong = ir.from_proto(onnx.parser.parse_model(text.replace("0.5", "1.5")))
    with pytest.raises(VerificationError):
        prove(model, wrong, [X])


def saturated(offset: float) -> ir.Model:
    """Answer with a sigmoid of -17, where only a few bits of it are left."""
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        saturated (float[N, 4] x) => (float[N, 4] y) <float[1] o = {{{offset!r}}}>
        {{
            z = Add (x, o)
            y = Sigmoid (z)
        }}
    """
    return ir.from_proto(onnx.parser.parse_model(text))


def test_a_sigmoid_that_saturates_is_judged_by_what_it_is_taken_of():
    assert prove(saturated(-18.0), saturated(-18.00005), [X]).max_error <= TOLERANCE
    with pytest.raises(VerificationError):
        prove(saturated(-18.0), saturated(-18.001), [X])
