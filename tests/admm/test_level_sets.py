"""Level sets: no levels with any scale are closer, whatever the list of levels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onnxadmm.admm import Penalty, QuantizedWeight, Solver
from onnxadmm.quantize import (
    BINARY,
    TERNARY,
    levels,
    power_levels,
    project_levels,
    scales,
    sweeps,
    uniform_levels,
)
from onnxadmm.quantize.bounds import lattice_for, least_between
from onnxadmm.quantize.ladders import ladder_of

LISTS = [BINARY, TERNARY, uniform_levels(2), uniform_levels(3), power_levels(3), (0.5, 2.0)]
NUMBERS = st.floats(-8, 8, width=32) | st.integers(-3, 3).map(float)


def brute_error(row, levels):
    """Return the least squared error of any levels with their best scale, by trying all."""
    signed = sorted({s * level for level in levels for s in (-1.0, 1.0)})
    q = np.array(list(itertools.product(signed, repeat=len(row))))
    product, energy = q @ row, np.square(q).sum(1)
    scale = np.where(energy > 0, np.maximum(product, 0) / np.maximum(energy, 1e-300), 0.0)
    return float(np.square(row - scale[:, None] * q).sum(1).min())


@settings(max_examples=120, deadline=None)
@given(row=st.lists(NUMBERS, min_size=1, max_size=4), levels=st.sampled_from(LISTS))
def test_no_levels_with_any_scale_are_closer(row, levels):
    x = np.array(row)
    q, scale = project_levels(x[None], levels)
    assert set(np.abs(q).flatten().tolist()) <= set(levels)
    assert scale[0] >= 0
    error = float(np.square(x - scale[0] * q[0]).sum())
    assert error <= brute_error(x, levels) + 1e-12 * float(np.square(x).sum())


@settings(max_examples=60, deadline=None)
@example(rows=[[0.0, 0.0, 1.5, 0.5, float(np.float32(1.2e-7))]], levels=power_levels(6))
@given(
    rows=st.lists(st.lists(NUMBERS, min_size=5, max_size=5), min_size=1, max_size=3),
    levels=st.sampled_from([*LISTS, uniform_levels(8), power_levels(6)]),
)
def test_what_is_on_levels_stays_there_and_zeros_stay_zero(rows, levels):
    x = np.array(rows)
    q, scale = project_levels(x, levels)
    on = q * scale[:, None]
    again, scale_again = project_levels(on, levels)
    assert np.allclose(again * scale_again[:, None], on, rtol=1e-12, atol=0)
    if levels[0] == 0:
        assert (on[x == 0] == 0).all()
    assert (on * x >= 0).all()


@settings(max_examples=60, deadline=None)
@given(
    row=st.lists(NUMBERS, min_size=2, max_size=6),
    levels=st.sampled_from(LISTS),
    data=st.data(),
)
def test_what_was_pruned_stays_zero_and_the_rest_is_projected_alone(row, levels, data):
    x = np.array(row)
    mask = data.draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row)))
    support = np.array(mask)
    x[~support] = 0
    q, scale = project_levels(x[None], levels, support[None])
    assert not q[0][~support].any()
    if support.any():
        alone, scale_alone = project_levels(x[support][None], levels)
        assert np.array_equal(q[0][support], alone[0])
        assert scale[0] == scale_alone[0]


@settings(max_examples=40, deadline=None)
@given(row=st.lists(NUMBERS, min_size=1, max_size=40), bits=st.integers(2, 8))
def test_no_scale_of_a_fine_scan_is_closer(row, bits):
    x, top = np.array(row), 2 ** (bits - 1) - 1
    q, scale = project_levels(x[None], uniform_levels(bits))
    error = float(np.square(x - scale[0] * q[0]).sum())
    scan = np.linspace(0.02, 2.5, 500)[:, None] * (np.abs(x).max() / top + 1e-30)
    nearest = np.clip(np.rint(x / scan), -top, top)
    best = float(np.square(x - scan * nearest).sum(1).min())
    assert error <= best + 1e-12 * float(np.square(x).sum())


@pytest.mark.parametrize("events", [1, 7, 100])
def test_a_range_of_scales_in_pieces_gives_the_same(events, monkeypatch):
    rows = np.random.default_rng(0).standard_normal((4, 50))
    for chosen in (*LISTS, uniform_levels(8)):
        q, scale = project_levels(rows, chosen)
        with monkeypatch.context() as patch:
            patch.setattr(levels, "BATCH_EVENTS", events)
            pieces, scale_of_pieces = project_levels(rows, chosen)
        assert np.array_equal(q, pieces)
        assert np.array_equal(scale, scale_of_pieces)


def errors(x, found):
    quantized, scales = found
    return np.square(x - scales[:, None] * quantized).sum(1)


@st.composite
def many_rows(draw):
    """Rows of weights as networks have them, and as they shouldn't."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 6)), draw(st.sampled_from([1, 3, 40, 100, 130, 700])))
    x = {
        "normal": rng.standard_normal,
        "heavy": lambda s: rng.standard_t(2, s),
        "even": lambda s: rng.uniform(-1, 1, s),
        "few values": lambda s: rng.choice([-1.0, -0.3, 0.3, 0.7, 1.0], s),
        "on a grid": lambda s: rng.integers(-90, 91, s).astype(float),
        "one large": lambda s: np.where(rng.random(s) < 0.01, 40.0, rng.standard_normal(s)),
    }[draw(st.sampled_from(["normal", "heavy", "even", "few values", "on a grid", "one large"]))](
        shape
    )
    x[rng.random(shape) < draw(st.sampled_from([0.0, 0.2, 0.95]))] = 0
    x *= 10.0 ** rng.integers(-20, 20, (shape[0], 1))
    return x.astype(draw(st.sampled_from([np.float32, np.float64])))


LADDERS = [*map(uniform_levels, range(2, 9)), *map(power_levels, range(2, 6))]


@settings(max_examples=60, deadline=None)
@given(
    x=many_rows(),
    chosen=st.sampled_from(LADDERS),
    a_bin=st.sampled_from([1, 4, sweeps.A_BIN]),
    few=st.sampled_from([scales.FEW_EVENTS, 1, 10]),
)
def test_rows_that_are_projected_together_are_projected_as_exactly(x, chosen, a_bin, few):
    alone = project_levels(x, chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "MOST_EVENTS", 0)
        # Longer stretches, cut into more bins.
        patch.setattr(sweeps, "A_BIN", a_bin)
        patch.setattr(scales, "FEW_EVENTS", few)
        found = project_levels(x, chosen, x != 0)
        again = project_levels(found[0] * found[1][:, None], chosen)
    wide = x.astype(np.float64)
    energy = np.square(wide).sum(1)
    assert (errors(wide, found) <= errors(wide, alone) * (1 + 1e-9) + 1e-12 * energy).all()
    assert (found[0][x == 0] == 0).all()
    assert (found[0] * x >= 0).all()
    assert np.isin(np.abs(found[0]), chosen).all()
    assert np.allclose(
        again[0] * again[1][:, None], found[0] * found[1][:, None], rtol=1e-6, atol=0
    )


@settings(max_examples=30, deadline=None)
@given(x=many_rows(), chosen=st.sampled_from(LADDERS))
def test_bounds_are_below_what_levels_leave(x, chosen):
    ladder = ladder_of(chosen)
    x = np.abs(x)[x.any(1)].astype(np.float32)
    if not len(x):
        return
    x /= x.max(axis=1, keepdims=True)
    rough = np.full(len(x), 1 / ladder.top)
    lattice = lattice_for(ladder, x.shape[1], 1e4 if len(chosen) > 40 else 100)
    shares, outer = lattice.shares(x, rough)
    bounds = (shares @ lattice.left + lattice.clipped(outer))[:, :-1]
    wide = x.astype(np.float64)
    energy = np.square(wide / rough[0]).sum(1)
    left = []
    for b in lattice.columns:
        units = wide * b / rough[0]
        middles = (np.array(chosen)[1:] + np.array(chosen)[:-1]) / 2
        left.append(np.square(units - np.array(chosen)[np.searchsorted(middles, units)]).sum(1))
    left = np.stack(left, 1)
    assert (bounds <= left * (1 + 1e-9) + 1e-9 * ladder.top**2).all()
    # And between two columns.
    start, end = lattice.columns[:-1], lattice.columns[1:]
    middle = (start + end) / 2
    inside = []
    for b in middle:
        units = wide * b / rough[0]
        inside.append(np.square(units - np.array(chosen)[np.searchsorted(middles, units)]).sum(1))
    error = np.stack(inside, 1) / middle**2
    least = least_between(energy[:, None], start, end, left[:, :-1], left[:, 1:])
    assert (least <= error + 1e-9 * energy[:, None]).all()


@settings(max_examples=30, deadline=None)
@given(row=st.lists(NUMBERS, min_size=1, max_size=20))
def test_binary_is_the_sign_times_the_mean_magnitude(row):
    x = np.array(row)
    q, scale = project_levels(x[None], BINARY)
    assert q[0].tolist() == [-1.0 if v < 0 else 1.0 for v in row]
    assert float(scale[0]) == pytest.approx(float(np.abs(x).mean()))


@pytest.mark.parametrize("factor", [1e-200, 1e200])
@pytest.mark.parametrize("levels", [BINARY, TERNARY, uniform_levels(4), power_levels(4)])
def test_the_projection_scales_with_the_weights(factor, levels):
    x = np.array([[1.0, -0.3, 0.0, 0.55, -2.0]])
    (q, scale), (scaled_q, scaled) = project_levels(x, levels), project_levels(x * factor, levels)
    assert np.array_equal(q, scaled_q)
    assert float(scaled[0]) == pytest.approx(float(scale[0]) * factor)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("width", [2, 200])
def test_what_is_not_finite_is_refused(bad, width, monkeypatch):
    monkeypatch.setattr(levels, "MOST_EVENTS", 0)
    with pytest.raises(ValueError, match="not finite"):
        project_levels(np.array([[bad, *[1.0] * width]]), TERNARY)


@pytest.mark.parametrize("levels", [(), (0.0,), (1.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_levels_that_are_none_are_refused(levels):
    with pytest.raises(ValueError, match="not ascending"):
        project_levels(np.ones((1, 2)), levels)


def test_bits_out_of_range_are_refused():
    for make, bad in itertools.product((uniform_levels, power_levels), (1, 9)):
        with pytest.raises(ValueError, match=f"{bad} bits"):
            make(bad)
    assert uniform_levels(3) == (0, 1, 2, 3)
    assert power_levels(3) == (0, 1, 2, 4)


def test_scales_are_by_tensor_or_by_the_axis_that_is_named():
    weight = torch.tensor([[1.0, -1.0, 1.0], [10.0, 10.0, -10.0]])
    by_row = QuantizedWeight("w", BINARY, 0).project({"w": weight})["w"]
    assert torch.equal(by_row, weight)
    by_column = QuantizedWeight("w", BINARY, 1).project({"w": weight})["w"]
    assert by_column.abs().tolist() == [[5.5] * 3] * 2
    whole = QuantizedWeight("w", BINARY).project({"w": weight})["w"]
    assert torch.equal(whole, weight.sign() * 5.5)


@pytest.mark.parametrize("levels", [BINARY, TERNARY, uniform_levels(4), power_levels(4)])
def test_admm_brings_weights_onto_levels(levels):
    torch.manual_seed(0)
    wanted = torch.randn(4, 6)
    weight = torch.nn.Parameter(wanted.clone())
    constraint = QuantizedWeight("w", levels, 0)
    solver = Solver([constraint], {"w": weight}, Penalty(1e-2, 1.3, 10.0))
    for _ in range(60):
        for _ in range(10):
            weight.grad = weight.detach() - wanted
            solver.add_gradients()
            with torch.no_grad():
                weight -= weight.grad / (1 + solver.rho)
        residuals, _ = solver.update()
    assert residuals.primal < 1e-3
    on = constraint.project({"w": weight.detach()})["w"]
    assert torch.allclose(weight.detach(), on, atol=1e-2)
