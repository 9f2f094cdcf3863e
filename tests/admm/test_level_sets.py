"""Level sets: no levels with any scale are closer, whatever the list of levels."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxadmm.admm import (
    BINARY,
    TERNARY,
    Penalty,
    QuantizedWeight,
    Solver,
    power_levels,
    project_levels,
    uniform_levels,
)

LISTS = [BINARY, TERNARY, uniform_levels(2), uniform_levels(3), power_levels(3), (0.5, 2.0)]
NUMBERS = st.floats(-8, 8, width=32) | st.integers(-3, 3).map(float)


def brute_error(row, levels):
    """Return the least squared error of any levels with their best scale, by trying all."""
    signed = sorted({s * level for level in levels for s in (-1.0, 1.0)})
    q = torch.tensor(list(itertools.product(signed, repeat=len(row))), dtype=torch.float64)
    product, energy = q @ row, q.square().sum(1)
    scale = torch.where(energy > 0, (product / energy.clamp(min=1e-300)).clamp(min=0), 0.0)
    return float((row - scale.unsqueeze(1) * q).square().sum(1).min())


@settings(max_examples=120, deadline=None)
@given(row=st.lists(NUMBERS, min_size=1, max_size=4), levels=st.sampled_from(LISTS))
def test_no_levels_with_any_scale_are_closer(row, levels):
    x = torch.tensor(row, dtype=torch.float64)
    q, scale = project_levels(x.unsqueeze(0), levels)
    assert set(q.abs().flatten().tolist()) <= set(levels)
    assert scale[0] >= 0
    error = float((x - scale[0] * q[0]).square().sum())
    assert error <= brute_error(x, levels) + 1e-12 * float(x.square().sum())


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(NUMBERS, min_size=5, max_size=5), min_size=1, max_size=3),
    levels=st.sampled_from([*LISTS, uniform_levels(8), power_levels(6)]),
)
def test_what_is_on_levels_stays_there_and_zeros_stay_zero(rows, levels):
    x = torch.tensor(rows, dtype=torch.float64)
    q, scale = project_levels(x, levels)
    on = q * scale.unsqueeze(1)
    again, scale_again = project_levels(on, levels)
    assert torch.allclose(again * scale_again.unsqueeze(1), on, rtol=1e-12, atol=0)
    if levels[0] == 0:
        assert bool((on[x == 0] == 0).all())
    assert bool((on * x >= 0).all())


@settings(max_examples=40, deadline=None)
@given(row=st.lists(NUMBERS, min_size=1, max_size=40), bits=st.integers(2, 8))
def test_no_scale_of_a_fine_scan_is_closer(row, bits):
    x, top = torch.tensor(row, dtype=torch.float64), 2 ** (bits - 1) - 1
    q, scale = project_levels(x.unsqueeze(0), uniform_levels(bits))
    error = float((x - scale[0] * q[0]).square().sum())
    scan = torch.linspace(0.02, 2.5, 500, dtype=torch.float64).unsqueeze(1) * (
        x.abs().max() / top + 1e-30
    )
    nearest = (x / scan).round().clamp(-top, top)
    assert error <= float((x - scan * nearest).square().sum(1).min()) + 1e-12 * float(
        x.square().sum()
    )


@settings(max_examples=30, deadline=None)
@given(row=st.lists(NUMBERS, min_size=1, max_size=20))
def test_binary_is_the_sign_times_the_mean_magnitude(row):
    x = torch.tensor(row, dtype=torch.float64)
    q, scale = project_levels(x.unsqueeze(0), BINARY)
    assert q[0].tolist() == [-1.0 if v < 0 else 1.0 for v in row]
    assert float(scale[0]) == pytest.approx(float(x.abs().mean()))


@pytest.mark.parametrize("factor", [1e-200, 1e200])
@pytest.mark.parametrize("levels", [BINARY, TERNARY, uniform_levels(4), power_levels(4)])
def test_the_projection_scales_with_the_weights(factor, levels):
    x = torch.tensor([[1.0, -0.3, 0.0, 0.55, -2.0]], dtype=torch.float64)
    (q, scale), (scaled_q, scaled) = project_levels(x, levels), project_levels(x * factor, levels)
    assert torch.equal(q, scaled_q)
    assert float(scaled[0]) == pytest.approx(float(scale[0]) * factor)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="not finite"):
        project_levels(torch.tensor([[bad, 1.0]]), TERNARY)


@pytest.mark.parametrize("levels", [(), (0.0,), (1.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_levels_that_are_none_are_refused(levels):
    with pytest.raises(ValueError, match="not ascending"):
        project_levels(torch.ones(1, 2), levels)


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
