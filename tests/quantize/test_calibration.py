"""The ranges of activations."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxadmm.errors import DataError
from onnxadmm.quantize import Range, observe
from onnxadmm.quantize.clipping import least_divergence, least_squared_error
from onnxadmm.spec import ActivationQuantization


@settings(deadline=None)
@given(
    low=st.floats(-1e6, 0),
    high=st.floats(0, 1e6),
    signed=st.booleans(),
)
def test_a_range_holds_zero_exactly_and_its_ends_nearly(low, high, signed):
    scale, zero = Range(low, high).quantized(signed)
    bottom = -128 if signed else 0
    assert zero.dtype == (np.int8 if signed else np.uint8)
    assert zero.shape == ()
    assert scale.dtype == np.float32
    assert scale > 0
    assert np.isfinite(scale)
    # Zero is the level of the zero point, whatever the scale's rounding.
    assert bottom <= int(zero) <= bottom + 255
    for value in (low, high, (low + high) / 2):
        level = np.clip(np.rint(value / float(scale)) + int(zero), bottom, bottom + 255)
        assert abs((level - int(zero)) * float(scale) - value) <= float(scale) * 1.01


def test_a_range_of_nothing_has_a_usable_scale():
    for signed in (True, False):
        scale, _ = Range(0.0, 0.0).quantized(signed)
        assert scale == 1.0


# --- calibration


def watched(feeds, settings, name="relu4_out0"):
    b = Builder(0, 1, 2)
    b.value = b.node("Identity", b.value)
    b.value = b.node("Mul", b.value, b.constant(2.0, np.float32))
    b.value = b.node("Relu", b.value)
    b.value = b.node("Neg", b.value)
    model = b.model()
    return observe(model, {name: settings, "x": settings}, [{"x": f} for f in feeds])


def images(values):
    return np.array(values, np.float32).reshape(-1, 1, 2, 2)


MINMAX = ActivationQuantization(calibrate="minmax")


def test_the_range_is_over_all_batches_and_holds_zero():
    found = watched([images([1, 2, 3, -4]), images([5, 1, 1, 1])], MINMAX)
    assert found == {"relu4_out0": Range(0.0, 10.0), "x": Range(-4.0, 5.0)}
    assert watched([images([1, 2, 3, 4])], MINMAX)["x"] == Range(0.0, 4.0)
    assert watched([images([-1, -2, -3, -4])], MINMAX)["x"] == Range(-4.0, 0.0)


def test_a_percentile_leaves_outliers_out():
    values = np.ones(4000, np.float32)
    values[7] = 1000
    narrow = ActivationQuantization(percentile=99.0)
    assert watched([images(values)], narrow)["x"] == Range(0.0, 1.0)
    whole = ActivationQuantization(percentile=100.0)
    assert watched([images(values)], whole)["x"] == Range(0.0, 1000.0)


def test_a_percentile_of_signed_values_cuts_both_tails():
    values = np.linspace(-1, 1, 4000).astype(np.float32)
    found = watched([images(values)], ActivationQuantization(percentile=90.0))["x"]
    assert found.low == pytest.approx(-0.9, abs=0.01)
    assert found.high == pytest.approx(0.9, abs=0.01)


def eight_bits(values, low, high):
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return (np.clip(np.rint(values / step), -zero, 255 - zero)) * step


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    outliers=st.integers(0, 3),
    signed=st.booleans(),
    size=st.sampled_from([50, 3000, 60_000]),
)
def test_the_least_squared_error_is_never_above_that_of_the_whole_range(
    seed, outliers, signed, size
):
    rng = np.random.default_rng(seed)
    values = rng.laplace(size=size)
    values[:outliers] *= 30
    values = values if signed else np.maximum(values, 0)
    low, high = min(float(values.min()), 0.0), float(values.max())
    bottom, top = least_squared_error(values, low, high)
    assert low <= bottom <= 0 < top <= high
    error = np.square(values - eight_bits(values, bottom, top)).sum()
    assert error <= 1.02 * np.square(values - eight_bits(values, low, high)).sum()


def test_outliers_are_cut_off_where_that_tells_the_others_apart():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.laplace(size=100_000), [300.0, -300.0]])
    bottom, top = least_divergence(values, -300.0, 300.0)
    assert -80 < bottom < -3
    assert 3 < top < 80
    even = rng.uniform(0, 1, 100_000)
    assert least_divergence(even, 0.0, 1.0) == (0.0, 1.0)


@pytest.mark.parametrize("way", ["mse", "entropy"])
def test_ranges_that_lose_least_hold_what_is_all_alike(way):
    how = ActivationQuantization(calibrate=way)
    assert watched([images(np.zeros(4000))], how)["x"] == Range(0.0, 0.0)
    found = watched([images(np.full(4000, 2.5))], how)["x"]
    assert found.low == 0
    assert found.high == pytest.approx(2.5, rel=0.06)


def test_values_that_are_nearly_all_zero_keep_their_range():
    values = np.zeros(40_000, np.float32)
    values[5] = 3.0
    assert watched([images(values)], ActivationQuantization(percentile=99.0))["x"] == Range(
        0.0, 3.0
    )


def test_each_tensor_is_observed_in_its_own_way():
    b = Builder(0, 1, 2)
    b.value = b.node("Relu", b.value)
    values = np.ones(4000, np.float32)
    values[7] = 1000
    how = {"x": MINMAX, "relu1_out0": ActivationQuantization(percentile=99.0)}
    found = observe(b.model(), how, [{"x": images(values)}])
    assert found == {"x": Range(0.0, 1000.0), "relu1_out0": Range(0.0, 1.0)}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_name(bad):
    with pytest.raises(DataError, match=r"'(x|relu4_out0)' is not finite"):
        watched([images([1, bad, 3, 4])], MINMAX)
