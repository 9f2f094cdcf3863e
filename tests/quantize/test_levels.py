"""The grid projection against brute force, and the ranges of activations."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxadmm.errors import DataError
from onnxadmm.quantize import Range, observe, project_grid
from onnxadmm.spec import ActivationQuantization

FLOATS = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 0.5, 127.0, 1e-30, -1e30]),
    st.floats(-10, 10, width=32),
)
ROWS = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=FLOATS)


def error(rows, levels, scales):
    wide = rows.astype(np.float64) - levels * scales.astype(np.float64)[:, None]
    return (wide**2).sum(1)


def plain(rows, bits):
    """Return the grid that ends at max|W|, the usual choice."""
    top = 2 ** (bits - 1) - 1
    peak = np.abs(rows.astype(np.float64)).max(1)
    # A scale is a normal float32, for the usual grid as for ours.
    scales = np.maximum(np.where(peak > 0, peak, 1.0) / top, np.finfo(np.float32).tiny)
    return np.clip(np.rint(rows / scales[:, None]), -top, top), scales


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, bits=st.sampled_from([2, 3, 4, 8]))
def test_never_worse_than_the_grid_up_to_the_largest_weight(rows, bits):
    levels, scales = project_grid(rows, bits)
    top = 2 ** (bits - 1) - 1
    assert levels.dtype == np.int8
    assert scales.dtype == np.float32
    assert (scales > 0).all()
    assert np.abs(levels.astype(int)).max() <= top
    usual = error(rows, *plain(rows, bits))
    # A float32 scale cannot do better than its rounding.
    slack = 1e-6 * (rows.astype(np.float64) ** 2).sum(1)
    assert (error(rows, levels, scales) <= usual + slack).all()
    assert not levels[rows == 0].any()


@pytest.mark.parametrize(("bits", "share"), [(8, 1.3), (4, 1.1), (3, 1.2)])
def test_close_to_the_best_of_many_scales(bits, share):
    rows = np.random.default_rng(3).standard_normal((40, 50))
    top = 2 ** (bits - 1) - 1
    best = np.full(40, np.inf)
    for scale in np.linspace(0.2, 1.2, 2000):
        scales = scale * np.abs(rows).max(1) / top
        levels = np.clip(np.rint(rows / scales[:, None]), -top, top)
        best = np.minimum(best, error(rows, levels, scales))
    found = error(rows, *project_grid(rows, bits))
    # Alternation from five starts finds a local optimum, on the whole as good as the scan.
    assert found.sum() <= best.sum() * share


def test_it_beats_the_usual_grid_where_a_few_weights_are_large():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((8, 400)).astype(np.float32)
    for bits in (3, 4):
        assert (
            error(rows, *project_grid(rows, bits)).sum()
            < 0.8 * error(rows, *plain(rows, bits)).sum()
        )


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_the_negative_has_the_negative_levels_and_the_same_scales(rows):
    levels, scales = project_grid(rows)
    mirrored, same = project_grid(-rows)
    assert np.array_equal(mirrored, -levels)
    assert np.array_equal(same, scales)


def test_rows_do_not_depend_on_each_other():
    rows = np.random.default_rng(1).standard_normal((5, 30)).astype(np.float32)
    together = project_grid(rows)
    for i in range(5):
        alone = project_grid(rows[i : i + 1])
        assert np.array_equal(alone[0][0], together[0][i])
        assert alone[1][0] == together[1][i]


def test_a_row_of_zeros_and_a_row_on_the_grid():
    rows = np.array([[0, 0, 0], [-127, 1, 63], [12.7, 0.1, -6.3]], np.float32)
    levels, scales = project_grid(rows)
    assert levels[0].tolist() == [0, 0, 0]
    assert scales[0] > 0
    assert np.allclose(levels * scales[:, None], rows, rtol=1e-5, atol=0)


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
