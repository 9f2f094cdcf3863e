"""The proof of outputs that are nothing but rounding: told as not proven, and no wrong cut with them."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxadmm.bench import open_session, run
from onnxadmm.compact import TOLERANCE, prove, unproven
from onnxadmm.errors import VerificationError
from onnxadmm.graph import model_bytes

FEEDS = [
    {"x": np.random.default_rng(n).standard_normal((2, 33)).astype(np.float32)} for n in (0, 1)
]


def centred(less: float = 1.0, scale: float = 1.0, more: float = 0.0, end: str = "") -> ir.Model:
    """Answer with the mean of what was centred, which is zero if `less` is 1, and with what was centred."""
    end = end or "mean = Identity (z)"
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        centred (float[N, 33] x) => (float[N, M] mean, float[N, 33] y)
        <float l = {{{less!r}}}, float s = {{{scale!r}}}, float o = {{{more!r}}}>
        {{
            w = Mul (x, s)
            m = ReduceMean <axes=[1]> (w)
            n = Mul (m, l)
            y = Sub (w, n)
            u = ReduceMean <axes=[1]> (y)
            z = Add (u, o)
            {end}
        }}
    """
    return ir.from_proto(onnx.parser.parse_model(text))


def test_a_mean_of_what_was_centred_is_not_proven_and_the_rest_is():
    other = centred(scale=1.0000001)
    proof = prove(centred(), other, FEEDS)
    assert proof.rounding == ("mean",)
    assert 0 < proof.max_error <= TOLERANCE
    assert unproven(proof) == [
        "not proven for mean: zero but for rounding, which is all that a run shows of it"
    ]


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["less", "scale", "more"]),
    st.floats(1e-4, 10.0),
    st.sampled_from([-1.0, 1.0]),
)
def test_no_wrong_model_passes_for_rounding(key, by, sign):
    right = {"less": 1.0, "scale": 1.0, "more": 0.0}
    wrong = {**right, key: right[key] + sign * by}
    for first, second in ((right, wrong), (wrong, right)):
        with pytest.raises(VerificationError):
            prove(centred(**first), centred(**second), FEEDS)


def test_a_decision_that_rounding_takes_is_no_excuse():
    """Which sign noise has is decided by rounding; that another model has the other sign needs another reason."""
    end = "mean = Sign (z)"
    feed = {"x": FEEDS[0]["x"][:1]}
    right = centred(end=end)
    (sign,) = run(open_session(model_bytes(right), name="it"), ["mean"], feed)
    with pytest.raises(VerificationError):
        prove(right, centred(end=end, more=-1e-6 * float(np.sign(sign[0, 0]) or 1)), [feed])


JUMPS = {
    "QuantizeLinear": """
        v = Mul (z, million)
        h = Add (v, half)
        q = QuantizeLinear (h, one, whole)
        w1 = DequantizeLinear (q, one, whole)
    """,
    "ThresholdedRelu": """
        v = Mul (z, million)
        h = Add (v, one)
        w1 = ThresholdedRelu <alpha=1.0> (h)
    """,
    "Cast": """
        v = Mul (z, million)
        h = Add (v, one)
        q = Cast <to=7> (h)
        w1 = Cast <to=1> (q)
    """,
}


@pytest.mark.parametrize("op", JUMPS)
def test_a_jump_that_rounding_decides_is_no_scale_for_another_error(op):
    """One rounding moves it from 0 to 1; that is no measure for a model whose 1 is a 7."""

    def ending(factor: float) -> str:
        held = f"""
            half = Constant <value_float = 0.5> ()
            one = Constant <value_float = 1.0> ()
            whole = Constant <value = int8 {{0}}> ()
            million = Constant <value_float = 1000000.0> ()
            factor = Constant <value_float = {factor!r}> ()
        """
        return held + JUMPS[op] + "mean = Mul (w1, factor)"

    right = centred(end=ending(1.0))
    shown = [run(open_session(model_bytes(right), name="it"), ["mean"], feed)[0] for feed in FEEDS]
    assert np.any(shown), "no rounding went up: the test shows nothing"
    with pytest.raises(VerificationError):
        prove(right, centred(end=ending(7.0)), FEEDS)


def test_a_sigmoid_far_out_is_noise_and_what_it_is_taken_of_is_not():
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        far (float[N, 33] x) => (float[N, 33] y) <float f = {0.1}, float shift = {-16.5}>
        {
            v = Mul (x, f)
            z = Add (v, shift)
            y = Sigmoid (z)
        }
    """
    right, wrong = (
        ir.from_proto(onnx.parser.parse_model(text.replace("0.1", f))) for f in ("0.1", "0.5")
    )
    with pytest.raises(VerificationError):
        prove(right, wrong, FEEDS)


def levelled(scale: float) -> ir.Model:
    """Choose a level by the logarithm of a difference of large numbers, as a detector does by a box's size."""
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        levelled (float[N, 33] x) => (float[N, 33] y)
        <float s = {{{scale!r}}}, float far = {{1000.0}}, float least = {{0.000001}}>
        {{
            w = Mul (x, s)
            a = Add (w, far)
            b = Sub (a, far)
            m = Abs (b)
            n = Add (m, least)
            l = Log (n)
            f = Floor (l)
            y = Mul (x, f)
        }}
    """
    return ir.from_proto(onnx.parser.parse_model(text))


def test_what_a_decision_is_taken_from_is_compared_to_what_rounding_does_to_it():
    feeds = [{"x": np.exp2(np.arange(33, dtype=np.float32) / 2 - 15)[None]}]
    assert prove(levelled(1.0), levelled(1.0000001), feeds).max_error <= TOLERANCE
    with pytest.raises(VerificationError):
        prove(levelled(1.0), levelled(1.1), feeds)


def difference(share: float, scale: float = 1.0) -> ir.Model:
    """Answer with what is left of a product when another, which is all but a share of it, is taken away."""
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        difference (float[N, 33] x) => (float[N, 5] y) <float s = {{{scale!r}}}>
        {{ v = Mul (x, s) p = MatMul (v, a) q = MatMul (x, b) y = Sub (p, q) }}
    """
    proto = onnx.parser.parse_model(text)
    a = np.random.default_rng(2).standard_normal((33, 5)).astype(np.float32)
    for name, content in (("a", a), ("b", np.float32((1 - share) * a))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(content, name))
    return ir.from_proto(proto)


def test_an_output_that_amplifies_rounding_is_not_proven_and_no_failure():
    proof = prove(difference(3e-3), difference(3e-3, 1.0000001), FEEDS)
    assert proof.amplified == ("y",)
    (text,) = unproven(proof)
    assert text.startswith("not proven for y: the model amplifies rounding")


@pytest.mark.parametrize(("share", "scale"), [(3e-3, 1.000002), (1.0, 1.00005), (0.3, 1.00001)])
def test_what_rounding_does_not_explain_is_wrong(share, scale):
    with pytest.raises(VerificationError):
        prove(difference(share), difference(share, scale), FEEDS)
