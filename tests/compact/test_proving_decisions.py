"""The proof of graphs that take decisions: an order that rounding changes is no difference, a score is."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxadmm.bench import open_session, run
from onnxadmm.compact import TOLERANCE, compare_outputs, prove
from onnxadmm.errors import VerificationError
from onnxadmm.graph import model_bytes

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


def attention(factor: float, mask: float, amplified: float = 1.0) -> ir.Model:
    """Scores, some of them masked out, through a softmax over four positions."""
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        attention (float[N, 4] x) => (float[N, 4] y)
        <float f = {{{factor!r}}}, float[4] m = {{0.0, 0.0, 0.0, {mask!r}}}, float a = {{{amplified!r}}}>
        {{
            s = Mul (x, f)
            z = Add (s, m)
            p = Softmax <axis = -1> (z)
            y = Mul (p, a)
        }}
    """
    return ir.from_proto(onnx.parser.parse_model(text))


@pytest.mark.parametrize("mask", [-1e9, -3e38])
def test_a_masked_score_does_not_hide_another_one_that_is_wrong(mask):
    assert prove(attention(1.0, mask), attention(1.000001, mask), [X]).max_error <= TOLERANCE
    with pytest.raises(VerificationError):
        prove(attention(1.0, mask), attention(1.01, mask), [X])
    # Large scores are compared by their own size, where they count.
    with pytest.raises(VerificationError):
        prove(attention(2000.0, mask), attention(2001.0, mask, amplified=1e6), [X])


@pytest.mark.parametrize("op", ["Sigmoid", "Softmax <axis = 1>"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_no_wrong_weight_hides_behind_what_saturates(op, data):
    """Whatever two layers and a gate between them compute: a weight that matters is wrong, and it is seen."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    scale = data.draw(st.sampled_from([1.0, 30.0, 1e4]))
    shift = data.draw(st.sampled_from([0.0, -18.0, -1e9]))
    first, second = rng.standard_normal((4, 4)) * scale, rng.standard_normal((4, 4))

    def gated(w: np.ndarray) -> ir.Model:
        shifts = ", ".join(repr(v) for v in (0.0, 0.0, 0.0, shift))
        rows = [", ".join(repr(float(v)) for v in m.reshape(-1)) for m in (w, second)]
        text = f"""
            <ir_version: 8, opset_import: ["" : 17]>
            gated (float[N, 4] x) => (float[N, 4] y)
            <float[4, 4] a = {{{rows[0]}}}, float[4, 4] b = {{{rows[1]}}}, float[4] o = {{{shifts}}}>
            {{
                h = MatMul (x, a)
                z = Add (h, o)
                g = {op} (z)
                k = MatMul (x, b)
                y = Mul (g, k)
            }}
        """
        return ir.from_proto(onnx.parser.parse_model(text))

    wrong = first.copy()
    place = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    wrong[place] += data.draw(st.sampled_from([0.01, 0.1, 1.0])) * scale
    feeds = [{"x": rng.standard_normal((3, 4)).astype(np.float32)} for _ in range(2)]
    try:
        prove(gated(first), gated(wrong), feeds)
    except VerificationError:
        return
    # It passes only where the outputs themselves are equal.
    sessions = [open_session(model_bytes(gated(w)), name="it") for w in (first, wrong)]
    for feed in feeds:
        assert compare_outputs(*(run(s, ["y"], feed) for s in sessions)) <= TOLERANCE


def test_outputs_that_never_move_are_not_proven():
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        still (float[N, 4] x) => (float[N, 4] y, float[N, 4] moves)
        <float zero = {0.0}, float bound = {1e9}>
        {
            y = Mul (x, zero)
            moves = Neg (x)
        }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    feeds = [X, {"x": -X["x"]}]
    assert prove(model, model, feeds).untested == ("y",)
    # The same inputs again show nothing of it, and one run neither.
    assert prove(model, model, [X, X]).untested == ()
    alone = ir.from_proto(onnx.parser.parse_model(text.replace(", float[N, 4] moves)", ")")))
    # A model may ignore its inputs: all of it is told as untested.
    assert prove(alone, alone, feeds).untested == ("y",)
    other = ir.from_proto(onnx.parser.parse_model(text.replace(", float[N, 4] moves)", ")")))
    other.graph[0].op_type = "Div"
    with pytest.raises(VerificationError):
        prove(alone, other, feeds)


def test_a_detector_that_finds_nothing_is_judged_by_what_it_looks_at():
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        blind (float[N, 4] x) => (int64[2, M] found) <float factor = {2.0}, float bound = {1e9}>
        {
            scores = Mul (x, factor)
            high = Greater (scores, bound)
            found = NonZero (high)
        }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    wrong = ir.from_proto(onnx.parser.parse_model(text.replace("2.0", "2.5")))
    feeds = [X, {"x": -X["x"]}]
    assert prove(model, model, feeds).untested == ()
    with pytest.raises(VerificationError):
        prove(model, wrong, feeds)


def test_an_order_that_never_moves_and_that_rounding_changes_is_judged_by_the_scores():
    """Both give the same order on all inputs, but not the same as each other."""
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        ranked (float[N, 2] x) => (int64[N, 2] order)
        <float[2] w = {1.0, 1.0}, int64[1] k = {2}>
        {
            m = ReduceMax <axes = [1], keepdims = 1> (x)
            scores = Mul (m, w)
            best, order = TopK (scores, k)
        }
    """
    first, second = (
        ir.from_proto(onnx.parser.parse_model(text.replace("1.0, 1.0", w)))
        for w in ("1.0, 1.0000001", "1.0000001, 1.0")
    )
    proof = prove(first, second, [{"x": np.array([[a, 0.0]], np.float32)} for a in (1.0, 2.0)])
    assert proof.max_error <= TOLERANCE
    assert proof.untested == ()
