"""The (Z, U) state and ρ: the arithmetic of scaled ADMM, and that it finds what it should."""

from __future__ import annotations

import math
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from onnxadmm.admm import (
    CoupledChannels,
    Penalty,
    QuantizedWeight,
    Solver,
    Unstructured,
    make_penalty,
)
from onnxadmm.admm.penalty import AUTO, CLOSED, IMBALANCE
from onnxadmm.admm.solver import HOLD
from onnxadmm.channels import Slice
from onnxadmm.spec import Rho

FIXED = Penalty(0.5, 1.0, 0.5)
GROWING = Penalty(0.5, 1.7, 100.0)


def rows(name, size, keep, axis=0):
    return CoupledChannels(f"{name}.{axis}", size, keep, (Slice(name, axis, np.arange(size)),))


def drawn(seed=0, **shapes):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.nn.Parameter(torch.randn(s, generator=generator)) for n, s in shapes.items()}


def three_on_one(weights):
    """Return three constraints, two of them and a third on the same weight."""
    return [rows("a", 4, 2), rows("a", 3, 2, axis=1), Unstructured("a", 12, 5), rows("b", 5, 3)]


def moved(weights, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for w in weights.values():
            w.add_(torch.randn(w.shape, generator=generator), alpha=0.3)


def penalty_of(solver):
    """Return Σ ρ/2 · ||W - Z + U||², differentiable; what stays in a sparse set is held by at most `HOLD`."""
    total = 0.0
    for rho, c, z, u in zip(solver.rhos, solver.constraints, solver.z, solver.u, strict=True):
        for n in z:
            stays = (z[n] != 0) & c.linear
            factor = torch.where(stays, min(rho, HOLD), rho)
            total = total + (factor / 2 * (solver.weights[n] - z[n] + u[n]).square()).sum()
    return total


def test_it_starts_at_the_projection_with_no_dual():
    weights = drawn(a=(4, 3), b=(5,))
    solver = Solver(three_on_one(weights), weights, FIXED)
    for c, z, u in zip(solver.constraints, solver.z, solver.u, strict=True):
        expected = c.project({n: weights[n].detach() for n in c.tensors})
        assert all(torch.equal(z[n], expected[n]) for n in c.tensors)
        assert all(not u[n].any() for n in c.tensors)


def test_gradients_are_autograds_with_several_constraints_on_one_weight():
    weights = drawn(a=(4, 3), b=(5,), free=(2,))
    solver = Solver(three_on_one(weights), weights, GROWING)
    for seed in range(3):
        moved(weights, seed)
        solver.update()
    moved(weights, 9)
    expected = torch.autograd.grad(penalty_of(solver), [weights["a"], weights["b"]])
    for w in weights.values():
        w.grad = torch.ones_like(w)
    solver.add_gradients()
    for got, wanted in zip((weights["a"], weights["b"]), expected, strict=True):
        assert torch.allclose(got.grad, 1 + wanted, rtol=1e-5, atol=1e-6)
        assert wanted.abs().max() > 0.1
    assert torch.equal(weights["free"].grad, torch.ones(2))


def test_what_stays_is_held_less_than_what_goes_is_pulled():
    weights = {"w": torch.nn.Parameter(torch.tensor([2.0, 1.0]))}
    solver = Solver([Unstructured("w", 2, 1)], weights, FIXED)
    solver.update()
    with torch.no_grad():
        weights["w"].copy_(torch.tensor([5.0, 0.5]))
    weights["w"].grad = torch.zeros(2)
    solver.add_gradients()
    # W is 3 from Z where it stays; where it goes W + U is 0.5 + 1.
    assert weights["w"].grad.tolist() == pytest.approx([HOLD * 3, FIXED.initial * 1.5])


def test_levels_hold_every_weight():
    weights = {"w": torch.nn.Parameter(torch.tensor([2.0, -1.0]))}
    solver = Solver([QuantizedWeight("w", (1,), None)], weights, FIXED)
    weights["w"].grad = torch.zeros(2)
    solver.add_gradients()
    assert weights["w"].grad.tolist() == [0.25, 0.25]


def test_the_gradient_at_w_equal_z_is_zero_and_finite():
    weights = {"a": torch.nn.Parameter(torch.tensor([[3.0, 0.0], [0.0, 0.0]]))}
    solver = Solver([rows("a", 2, 1)], weights, FIXED)
    weights["a"].grad = torch.zeros(2, 2)
    solver.add_gradients()
    assert torch.allclose(weights["a"].grad, torch.zeros(2, 2), atol=1e-7)


def test_a_weight_without_a_gradient_is_left_alone():
    weights = drawn(a=(4, 3))
    Solver([rows("a", 4, 2)], weights, FIXED).add_gradients()
    assert weights["a"].grad is None


def test_an_update_is_the_z_step_then_the_u_step():
    weights = {"w": torch.nn.Parameter(torch.tensor([2.0, 1.0]))}
    solver = Solver([Unstructured("w", 2, 1)], weights, FIXED)
    total, each = solver.update()
    assert solver.z[0]["w"].tolist() == [2.0, 0.0]
    assert solver.u[0]["w"].tolist() == [0.0, 1.0]
    assert total.primal == pytest.approx(1 / math.sqrt(5))
    assert total.dual == 0
    assert each == {"w": total}
    # Now W + U = [2, 2.5]: the dual wins the place for the second element.
    with torch.no_grad():
        weights["w"][1] = 1.5
    total, _ = solver.update()
    assert solver.z[0]["w"].tolist() == [0.0, 2.5]
    assert solver.u[0]["w"].tolist() == [2.0, 0.0]
    assert total.primal == pytest.approx(math.sqrt((2**2 + 1) / 6.25))
    assert total.dual == pytest.approx(math.sqrt((2**2 + 2.5**2) / 6.25))


def test_rescaling_keeps_rho_times_the_dual():
    weights, twin = drawn(a=(4, 3), b=(5,)), drawn(a=(4, 3), b=(5,))
    growing = Solver(three_on_one(weights), weights, Penalty(0.5, 1.7, 100.0))
    fixed = Solver(three_on_one(twin), twin, FIXED)
    moved(weights, 1)
    moved(twin, 1)
    growing.update()
    fixed.update()
    assert min(growing.rhos) > fixed.rho
    for rho, a, b in zip(growing.rhos, growing.u, fixed.u, strict=True):
        for n in a:
            assert torch.allclose(rho * a[n], fixed.rho * b[n], rtol=1e-6)
            assert b[n].abs().max() > 0


def test_masks_of_several_constraints_are_cut_together():
    weights = {"a": torch.nn.Parameter(torch.tensor([[9.0, 1.0], [8.0, 2.0]]))}
    solver = Solver([rows("a", 2, 1), rows("a", 2, 1, axis=1)], weights, FIXED)
    assert (weights["a"] * solver.masks()["a"]).tolist() == [[9.0, 0.0], [0.0, 0.0]]


def test_state_is_restored_exactly():
    weights = drawn(a=(4, 3), b=(5,))
    solver = Solver(three_on_one(weights), weights, GROWING)
    for seed in range(3):
        moved(weights, seed)
        solver.update()
    state = {n: t.clone() for n, t in solver.state().items()}
    rhos, updates = list(solver.rhos), solver.updates
    twin = {n: torch.nn.Parameter(w.detach().clone()) for n, w in weights.items()}
    other = Solver(three_on_one(twin), twin, GROWING)
    other.restore(state, rhos, updates)
    for s, w in ((solver, weights), (other, twin)):
        moved(w, 7)
        for p in w.values():
            p.grad = torch.zeros_like(p)
        s.add_gradients()
    assert all(torch.equal(weights[n].grad, twin[n].grad) for n in weights)
    assert solver.update() == other.update()
    assert solver.rhos == other.rhos
    after, expected = other.state(), solver.state()
    assert after.keys() == expected.keys()
    assert all(torch.equal(after[n], expected[n]) for n in expected)


def test_a_weight_that_left_the_finite_numbers_is_refused():
    weights = drawn(a=(4, 3))
    solver = Solver([rows("a", 4, 2)], weights, FIXED)
    with torch.no_grad():
        weights["a"][1, 1] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        solver.update()


@pytest.mark.parametrize("rho", ["auto", Rho(initial=0.01, growth=1.2, maximum=5.0)])
def test_a_quadratic_ends_at_its_known_optimum(rho):
    """min ½ Σ h (w - t)² with 3 of 8 elements: keep the largest h·t², exactly at t."""
    target = torch.tensor([1.0, -3.0, 0.5, 2.0, -0.1, 0.0, 2.5, 1.5])
    h = torch.tensor([0.5, 0.5, 1.0, 1.0, 1.0, 2.0, 0.02, 3.0])
    weights = {"w": torch.nn.Parameter(target.clone())}
    updates = 60
    solver = Solver([Unstructured("w", 8, 3)], weights, make_penalty(rho, updates))
    primals = []
    for _ in range(updates):
        for _ in range(50):
            weights["w"].grad = h * (weights["w"].detach() - target)
            solver.add_gradients()
            with torch.no_grad():
                weights["w"].sub_(weights["w"].grad / (h + solver.rho))
        primals.append(solver.update()[0].primal)
    assert primals[-1] < 1e-3
    assert primals[-1] < primals[0] / 50
    support = solver.masks()["w"].nonzero().flatten().tolist()
    # h·t² is 0.5, 4.5, 0.25, 4, 0.01, 0, 0.125, 6.75; the magnitude alone would keep 1, 3, 6.
    assert support == [1, 3, 7]
    assert torch.allclose(weights["w"][support], target[support], atol=0.02)


@settings(deadline=None)
@given(updates=st.integers(1, 200), gap=st.floats(0, 1), dual=st.floats(0, 1))
def test_auto_grows_evenly_to_its_maximum_while_the_gap_stays(updates, gap, dual):
    penalty = make_penalty("auto", updates)
    rho, seen = penalty.initial, []
    for update in range(1, updates + 1):
        seen.append(rho)
        rho = penalty.following(rho, gap, dual, update)
    if gap <= CLOSED:
        assert seen == [AUTO.initial] * updates
    elif updates > 1:
        ratio = (AUTO.maximum / AUTO.initial) ** (1 / (updates - 1))
        assert seen == pytest.approx([AUTO.initial * ratio**k for k in range(updates)])


def test_each_constraints_own_gap_moves_its_rho():
    weights = {
        n: torch.nn.Parameter(torch.tensor([2.0, x])) for n, x in (("near", 0.01), ("far", 1.0))
    }
    solver = Solver([Unstructured(n, 2, 1) for n in weights], weights, make_penalty("auto", 20))
    for _ in range(15):
        solver.update()
    near, far = solver.rhos
    assert far > 10 * near
    assert near < solver.rho == far


def test_rho_grows_faster_while_the_primal_residual_lags():
    penalty = make_penalty(Rho(initial=1.0, growth=1.5, maximum=100.0), 10)
    assert penalty.following(1.0, IMBALANCE * 0.01, 0.01) == 1.5
    assert penalty.following(1.0, IMBALANCE * 0.011, 0.01) == 2.25
    assert penalty.following(1.0, 0.001, 0.1) == 1.5


def test_rho_stops_at_its_maximum_and_never_falls():
    penalty = Penalty(1.0, 1.5, 2.0)
    assert penalty.following(1.9, 0.0, 0.0) == 2.0
    assert penalty.following(2.0, 1.0, 0.0) == 2.0
    assert Penalty(5.0, 1.5, 2.0).following(5.0, 1.0, 0.0) == 5.0


def course(policy, residuals, **given):
    """Return ρ of each W-step under a policy, for the given (primal, dual) after each."""
    rho = Rho(policy=policy, initial=1.0, growth=2.0, maximum=100.0, **given)
    penalty = make_penalty(rho, len(residuals))
    values = [penalty.initial]
    for update, (primal, dual) in enumerate(residuals, start=1):
        values.append(penalty.following(values[-1], primal, dual, update))
    return values


BALANCED, LAGGING, LEADING = (0.1, 0.1), (0.5, 0.01), (0.01, 0.5)


def test_each_policy_moves_rho_as_it_says():
    mixed = [BALANCED, LAGGING, LEADING, BALANCED]
    assert course("constant", mixed) == [1, 1, 1, 1, 1]
    assert course("geometric", mixed) == [1, 2, 4, 8, 16]
    assert course("accelerated", mixed) == [1, 2, 8, 16, 32]
    assert course("balanced", mixed) == [1, 1, 2, 1, 1]
    assert course("staged", [LAGGING] * 6, stages=3) == [1, 1, 2, 2, 4, 4, 8]
    assert course("staged", [LAGGING] * 4, stages=1) == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("policy", ["balanced", "staged", "constant"])
def test_the_dual_is_rescaled_whichever_way_rho_moves(policy):
    weights, twin = drawn(a=(4, 3), b=(5,)), drawn(a=(4, 3), b=(5,))
    rho = Rho(policy=policy, initial=0.5, growth=1.7, maximum=100.0, stages=4)
    moving = Solver(three_on_one(weights), weights, make_penalty(rho, 4))
    fixed = Solver(three_on_one(twin), twin, FIXED)
    fixed.update()
    moving.update()
    for rho, a, b in zip(moving.rhos, moving.u, fixed.u, strict=True):
        assert all(torch.allclose(rho * a[n], fixed.rho * b[n], rtol=1e-6) for n in a)
    assert (moving.rho == fixed.rho) == (policy == "constant")


def test_rho_that_starts_above_its_maximum_is_refused():
    with pytest.raises(ValueError, match="above maximum"):
        Rho(initial=5.0, maximum=1.0)
    assert Rho(policy="constant", initial=50.0).initial == 50.0


class Allocated(TorchDispatchMode):
    """Follows the bytes of tensors that operators make, for as long as they live."""

    def __init__(self):
        super().__init__()
        self.living, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {
            a.untyped_storage().data_ptr()
            for a in (*args, *(kwargs or {}).values())
            if isinstance(a, torch.Tensor)
        }
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else [found]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in before and storage.nbytes():
                    self.living[storage.data_ptr()] = storage.nbytes()
                    weakref.finalize(storage, self.living.pop, storage.data_ptr(), None)
        self.peak = max(self.peak, sum(self.living.values()))
        return found


@pytest.mark.parametrize(
    "make",
    [
        lambda shape: Unstructured("w", math.prod(shape), math.prod(shape) // 10),
        lambda shape: rows("w", shape[0], shape[0] // 2),
    ],
    ids=["unstructured", "channels"],
)
def test_an_update_takes_no_copy_of_a_weight_beside_z_and_u(make):
    weights = drawn(w=(2048, 4096))
    solver = Solver([make((2048, 4096))], weights, FIXED)
    with Allocated():  # loads what following takes
        torch.ones(1).add(1)
    tracemalloc.start()
    try:
        with Allocated() as allocated:
            solver.update()
        _, arrays = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A mask is a quarter; the rest is a few pieces.
    assert allocated.peak > 0
    assert allocated.peak + arrays < 0.9 * weights["w"].nbytes
