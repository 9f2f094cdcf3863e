"""A run that diverges goes back with smaller steps, a bounded number of times; what isn't sound is never saved."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from runs import (
    IDENTITY,
    STEPS,
    dataset,
    outcome,
    trainer,
    watch,
)
from stopping import StopAfter

from onnxadmm.errors import DivergedError, Interrupted
from onnxadmm.spec import Objective, Optimizer
from onnxadmm.training import CheckpointStore, engine, rates


@pytest.mark.parametrize("kind", ["admm", "retrain"])
def test_a_learning_rate_that_explodes_is_said(kind, monkeypatch):
    monkeypatch.setattr(rates, "RETREAT_FACTOR", 1.0)
    huge = Optimizer(name="SGD", lr=100.0)
    _, made = trainer(kind, schedule={"epochs": 40, "retrain": 40, "optimizer": huge})
    with pytest.raises(
        DivergedError, match=r"step \d+: .*back 3 times.*lower schedule\.optimizer\.lr"
    ):
        made.run()


def test_after_divergence_it_is_said_that_checkpoints_are_left(monkeypatch, tmp_path):
    monkeypatch.setattr(engine, "CHECKPOINT_INTERVAL_S", -1.0)
    monkeypatch.setattr(engine, "CHECKPOINT_SHARE", 1e9)
    _, made = trainer("retrain", schedule={"retrain": 2}, store=CheckpointStore(tmp_path, {}))

    def diverging(phase, take, index):
        if made.position.epoch == 1:
            raise DivergedError("step 9: it did")
        return take(index)

    watch(made, step=diverging)
    with pytest.raises(DivergedError, match="run again with --restart: this run left checkpoints"):
        made.run()


@pytest.mark.parametrize(("persists", "fails"), [(2, False), (99, True)])
def test_a_loss_that_is_finite_and_absurd_is_divergence(persists, fails):
    net, made = trainer("retrain", schedule={"retrain": 1})

    def spoiling(phase, take, index):
        value = take(index)
        if made.position.retreats < persists:
            with torch.no_grad():
                for name, weight in net.imported.binding.items():
                    weight.copy_(torch.from_numpy(before[name]) * 100.0)
        return value

    before = net.imported.weights()
    watch(made, step=spoiling)
    if fails:
        with pytest.raises(
            DivergedError, match=rf"step {STEPS}: the loss on output .*back 3 times"
        ):
            made.run()
    else:
        history = made.run().history
        assert made.position.retreats == persists
        assert [r.loss < 100 for r in history] == [True]


@pytest.mark.parametrize(("later", "fails"), [(3.0, True), (1.0, False)])
def test_a_run_that_went_back_must_do_better_than_wrong_answers(later, fails):
    """A loss three times as large is no divergence by itself, see the next test; after one it is no recovery."""
    net, made = trainer("retrain", schedule={"retrain": 1})
    before = net.imported.weights()

    def spoiling(phase, take, index):
        value = take(index)
        wild = later if made.position.retreats else 100.0
        with torch.no_grad():
            for name, weight in net.imported.binding.items():
                weight.copy_(torch.from_numpy(before[name]) * wild)
        return value

    watch(made, step=spoiling)
    if fails:
        with pytest.raises(DivergedError, match=r"over the epoch; before training, .*back 3 times"):
            made.run()
    else:
        made.run()
        assert made.position.retreats == 1


@pytest.mark.parametrize(("factor", "retreats"), [(100.0, 3), (3.0, 0)])
def test_a_network_that_explodes_and_dies_has_diverged(factor, retreats):
    net, made = trainer("retrain", schedule={"retrain": 1})
    before = net.imported.weights()

    def spoiling(phase, take, index):
        value = take(index)
        # Wild after the first step, and nothing but zeros after the second.
        wild = [factor, 0.0][made.position.batch > 0] if made.position.retreats < 3 else 1.0
        with torch.no_grad():
            for name, weight in net.imported.binding.items():
                weight.copy_(torch.from_numpy(before[name]) * wild)
        return value

    watch(made, step=spoiling)
    made.run()
    assert made.position.retreats == retreats


@pytest.mark.parametrize("objective", ["cross_entropy", "mse", "distill"])
def test_what_is_a_large_loss_is_known_before_the_first_step(objective):
    labels = "class" if objective == "cross_entropy" else "float"
    net, made = trainer(
        "retrain", objective=Objective(loss=objective), train=dataset(labels=labels), evaluate=None
    )
    before = net.imported.weights()
    made.run()
    assert 1 <= made.position.scale < 1000
    # It is told by the network as it came, not by what training made of it.
    net, again = trainer(
        "retrain", objective=Objective(loss=objective), train=dataset(labels=labels), evaluate=None
    )
    watch(again, step=lambda phase, take, index: 0.0)
    again.run()
    assert again.position.scale == made.position.scale
    assert all((net.imported.weights()[n] == w).all() for n, w in before.items())


@pytest.mark.parametrize("kind", ["admm", "retrain"])
def test_the_very_last_step_is_looked_at_too(kind):
    net, made = trainer(kind, schedule={"epochs": 1, "retrain": 1, "updates_per_epoch": 3})
    done = []

    def breaking(phase, take, index):
        value = take(index)
        done.append(1)
        if len(done) % STEPS == 0:
            with torch.no_grad():
                next(iter(net.imported.binding.values())).fill_(math.inf)
        return value

    watch(made, step=breaking)
    with pytest.raises(DivergedError, match=r"weight .* holds inf, after going back 3 times"):
        made.run()


class Explodes:
    """Spoils the first weight's gradient at a step of the run, for as long as the rate is above a limit."""

    def __init__(self, net, made, step, limit):
        self.net, self.made, self.step, self.limit = net, made, step, limit
        self.times = 0
        self.hook = next(iter(net.imported.binding.values())).register_hook(self)

    def __call__(self, gradient):
        rate = 0.01 * rates.RETREAT_FACTOR**self.made.position.retreats
        if self.made.position.step + 1 == self.step and rate > self.limit:
            self.times += 1
            return gradient * math.nan
        return gradient


@pytest.mark.parametrize("kind", ["admm", "retrain"])
def test_a_run_that_diverges_goes_back_and_goes_on_with_smaller_steps(kind):
    net, made = trainer(kind)
    explodes = Explodes(net, made, STEPS + 2, 0.0005)
    result = made.run()
    assert explodes.times == 2
    assert made.position.retreats == 2
    assert [r.epoch for r in result.history] == list(range(1, len(result.history) + 1))
    assert all(bool(torch.isfinite(w).all()) for w in net.imported.binding.values())


def test_the_gradient_that_is_not_finite_is_named_with_step_and_value():
    net, made = trainer("retrain")
    Explodes(net, made, 2, 0.0)
    with pytest.raises(DivergedError) as caught:
        made.run()
    name = next(iter(net.imported.binding))
    assert f"step 2: the gradient of weight {name!r} holds nan" in str(caught.value)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_run_that_goes_back_and_is_stopped_equals_one_that_was_not(stop, tmp_path):
    net, made = trainer("admm")
    Explodes(net, made, STEPS + 3, 0.0005)
    expected = outcome(net, made.run())
    store = CheckpointStore(tmp_path, IDENTITY)
    net, made = trainer("admm", store, stop=StopAfter(stop))
    Explodes(net, made, STEPS + 3, 0.0005)
    with pytest.raises(Interrupted):
        made.run()
    net, made = trainer("admm", store)
    Explodes(net, made, STEPS + 3, 0.0005)
    assert outcome(net, made.run()) == expected


def test_a_state_that_diverged_is_never_saved(tmp_path):
    store = CheckpointStore(tmp_path, IDENTITY)
    net, made = trainer("retrain", store, stop=StopAfter(2))

    def breaking(phase, take, index):
        value = take(index)
        if made.position.step == 1:
            with torch.no_grad():
                next(iter(net.imported.binding.values())).fill_(math.inf)
        return value

    watch(made, step=breaking)
    with pytest.raises(Interrupted):
        made.run()
    assert store.load() is None


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        # W + U is projected, and what it is projected to is not finite.
        (lambda solver: solver.u[0][solver.constraints[0].tensors[0]].fill_(math.inf), "residual"),
        # Finite residuals; then ρ falls, and U grows by as much.
        (lambda solver: setattr(solver, "penalty", Falling()), "the dual of"),
    ],
)
def test_residuals_and_duals_that_are_not_finite_are_said_and_never_saved(
    spoil, said, tmp_path, monkeypatch
):
    # After every step.
    monkeypatch.setattr(engine, "CHECKPOINT_INTERVAL_S", -1.0)
    monkeypatch.setattr(engine, "CHECKPOINT_SHARE", 1e9)
    store = CheckpointStore(tmp_path, IDENTITY)
    _, made = trainer("admm", store)
    saved, save = [], store.save

    def saving(checkpoint):
        assert all(bool(torch.isfinite(t).all()) for t in checkpoint.tensors.values())
        saved.append(checkpoint.step)
        save(checkpoint)

    store.save = saving

    def spoiling(descent, take):
        if made.position.step > STEPS:
            spoil(descent.solver)
        return take()

    watch(made, update=spoiling)
    with pytest.raises(DivergedError, match=rf"step \d+: .*{said}.* 3 times"):
        made.run()
    assert max(saved) > STEPS


class Falling:
    """ρ falls by orders of magnitude at every update."""

    initial = 1e-3

    def following(self, rho, *residuals):
        return rho / 1e42


@pytest.mark.parametrize("at", [STEPS, STEPS + 1])
def test_finite_weights_that_overflow_are_never_saved(at, tmp_path):
    store = CheckpointStore(tmp_path, IDENTITY)
    net, made = trainer("retrain", store, stop=StopAfter(at) if at > STEPS else None)
    saved = []
    store.save = lambda checkpoint: saved.append(checkpoint.step)

    def breaking(phase, take, index):
        value = take(index)
        if made.position.step == at - 1 and made.position.retreats < 3:
            with torch.no_grad():
                for weight in net.imported.binding.values():
                    weight.fill_(1e30)
        return value

    watch(made, step=breaking)
    if at > STEPS:
        with pytest.raises(Interrupted):
            made.run()
        assert saved == []
    else:
        # The end of the epoch sees it, and the epoch is what is done again.
        made.run()
        assert made.position.retreats == 3
        assert all(bool((w < 1e29).all()) for w in net.imported.binding.values())


def test_a_loss_that_is_nan_is_said_at_its_step():
    data = dataset()
    data.inputs["x"][:] = np.nan
    _, made = trainer("retrain", train=data)
    with pytest.raises(
        DivergedError, match=r"step 1: the loss on output .* is nan, after going back 3 times"
    ):
        made.run()
