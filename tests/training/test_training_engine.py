"""ADMM and masked retraining on a tiny network: what must hold after every run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from runs import (
    BATCH,
    SAMPLES,
    STEPS,
    Network,
    dataset,
    outcome,
    rates_of,
    schedule,
    trainer,
    watch,
)

from onnxadmm.admm import CoupledChannels, kept_channels
from onnxadmm.admm.penalty import AUTO
from onnxadmm.spec import Objective, Optimizer
from onnxadmm.training import plan_admm, plan_retraining


def random_masks(net, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return {
        n: torch.rand(w.shape, generator=generator) > 0.5 for n, w in net.imported.binding.items()
    }


@pytest.mark.parametrize(
    "optimizer",
    [
        Optimizer(name="Adam", lr=0.02, weight_decay=0.1),
        Optimizer(name="AdamW", lr=0.02, weight_decay=0.1),
        Optimizer(name="SGD", lr=0.02, weight_decay=0.1, momentum=0.9),
    ],
)
def test_masked_weights_stay_exactly_zero_and_the_others_learn(optimizer):
    net = Network()
    masks = random_masks(net)
    before = net.imported.weights()
    for _ in range(2):  # the second run starts from a state that momentum has moved
        net, made = trainer("retrain", masks=masks, net=net, schedule={"optimizer": optimizer})
        trained = made.run()
    assert trained.masks.keys() == masks.keys()
    for name, weight in net.imported.weights().items():
        mask = masks[name].numpy()
        assert not weight[~mask].any(), name
        assert (weight[mask] != before[name][mask]).mean() > 0.9, name


def test_admm_ends_with_exactly_the_channels_that_are_kept():
    net, made = trainer("admm", schedule={"epochs": 6})
    trained = made.run()
    weights = {n: torch.from_numpy(w) for n, w in net.imported.weights().items()}
    for c in net.classes:
        if c.fixed:
            continue
        kept = kept_channels(c, trained.masks)
        assert int(kept.sum()) == 2, c.name
        # What went is zero in every slice, not only in the mask.
        energy = next(k for k in net.constraints() if k.name == c.name).scores(weights)
        assert (energy > 0).tolist() == kept.tolist()
    last = net.constraints()[-1]
    assert int((weights[last.tensor] != 0).sum()) <= 10


def test_zeroed_in_an_early_step_stays_zero_in_the_later_ones():
    _, made = trainer("admm", schedule={"epochs": 2, "steps": 2})
    made.phases = made.phases[:1]
    first = made.run().masks
    _, made = trainer("admm", schedule={"epochs": 2, "steps": 2})
    last = made.run().masks
    assert any(not m.all() for m in first.values())
    assert all(not (last[n] & ~first[n]).any() for n in first)
    assert sum(int(m.sum()) for m in last.values()) < sum(int(m.sum()) for m in first.values())


def test_history_says_what_each_epoch_did():
    net, made = trainer("admm", schedule={"epochs": 3, "steps": 2})
    history = made.run().history
    assert [r.epoch for r in history] == [1, 2, 3]
    assert [r.step for r in history] == [1, 1, 2]
    names = {c.name for c in net.constraints()}
    for record in history:
        assert record.stage == "admm"
        assert record.constraints.keys() == names
        assert record.rho > 0
        assert 0 <= record.metric <= 1
        assert record.seconds > 0
        # The norms of the parts cannot exceed the whole's.
        assert record.primal <= max(r["primal"] for r in record.constraints.values())
    net, made = trainer("retrain", schedule={"retrain": 2})
    history = made.run().history
    assert [(r.epoch, r.stage, r.rho, r.primal, r.constraints) for r in history] == [
        (1, "retrain", None, None, {}),
        (2, "retrain", None, None, {}),
    ]


def test_the_loss_of_an_epoch_is_the_mean_over_its_steps():
    losses = []

    _, made = trainer("retrain", schedule={"retrain": 1})

    def listening(phase, take, index):
        losses.append(take(index))
        return losses[-1]

    watch(made, step=listening)
    record = made.run().history[0]
    assert len(losses) == STEPS
    assert record.loss == pytest.approx(np.mean(losses), rel=1e-12)


def test_training_lowers_the_loss():
    _, made = trainer("retrain", schedule={"retrain": 15})
    history = made.run().history
    assert history[-1].loss < 0.7 * history[0].loss


def test_every_sample_is_seen_once_an_epoch_in_another_order_each():
    _, made = trainer("retrain", schedule={"retrain": 2})
    seen = []
    watch(made, step=lambda phase, take, index: (seen.append(index), take(index))[1])
    made.run()
    first, second = np.concatenate(seen[:STEPS]), np.concatenate(seen[STEPS:])
    assert len(set(first.tolist())) == len(first) == STEPS * BATCH <= SAMPLES
    assert first.tolist() != second.tolist()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    runs = []
    for seed in (5, 5, 6):
        net, made = trainer("admm", seed=seed)
        runs.append(outcome(net, made.run()))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]


@pytest.mark.parametrize(("updates", "expected"), [(1, 1), (2, 2), (3, 3), (4, 4), (9, STEPS)])
def test_an_epoch_does_the_updates_that_were_asked_for(updates, expected):
    _, made = trainer("admm", schedule={"epochs": 2, "steps": 1, "updates_per_epoch": updates})
    done = []
    watch(made, update=lambda phase, take: (done.append(phase.solver.rho), take())[1])
    history = made.run().history
    assert len(done) == 2 * expected
    assert done == sorted(done)
    # `auto` grows over the updates there are, however few fit into an epoch.
    assert done[-1] > AUTO.initial
    assert history[-1].rho >= done[-1]


def test_a_step_ends_early_once_the_residuals_are_small():
    given = {"epochs": 8, "steps": 2, "tolerance": 0.9}
    net, made = trainer("admm", schedule=given)
    # Nothing has to go: Z is W at each update, and moves by no more than W does.
    made.final = [CoupledChannels(c.name, c.size, c.size, c.slices) for c in net.constraints()[:-1]]
    assert [(r.step, r.primal) for r in made.run().history] == [(1, 0.0), (2, 0.0)]
    net, made = trainer("admm", schedule={**given, "tolerance": 1e-9})
    made.final = [CoupledChannels(c.name, c.size, c.size, c.slices) for c in net.constraints()[:-1]]
    assert len(made.run().history) == 8


def test_the_learning_rate_falls_over_the_retraining_and_stays_in_admm():
    for kind in ("retrain", "admm"):
        _, made = trainer(kind, schedule={"retrain": 3, "epochs": 3, "steps": 1})
        used = rates_of(made)
        made.run()
        assert len(used) == 3 * STEPS
        if kind == "admm":
            assert used == [0.01] * len(used)
        else:
            shares = np.arange(3 * STEPS) / (3 * STEPS)
            assert used == pytest.approx(0.005 * (1 + np.cos(np.pi * shares)))


@pytest.mark.parametrize(
    "objective",
    [
        Objective(loss="distill"),
        Objective(loss="mse"),
        Objective(loss="bce"),
        Objective(loss="bce", metric="agreement"),
    ],
)
def test_every_objective_trains_and_is_measured(objective):
    labels = "class" if objective.loss == "distill" else "targets"
    _, made = trainer("retrain", objective=objective, train=dataset(labels=labels))
    made.eval_data = dataset(2, 11, labels=labels)
    for record in made.run().history:
        assert math.isfinite(record.loss)
        assert record.metric is not None


def test_distilling_an_unchanged_network_has_nothing_to_learn():
    # SGD: Adam divides by the gradient's size, and so takes full steps along mere rounding.
    given = {"retrain": 1, "optimizer": Optimizer(name="SGD", lr=0.01)}
    net, made = trainer("retrain", objective=Objective(loss="distill"), schedule=given)
    before = net.imported.weights()
    record = made.run().history[0]
    assert abs(record.loss) < 1e-6
    assert record.metric == 1.0
    assert all(np.abs(w - before[n]).max() < 1e-6 for n, w in net.imported.weights().items())


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"),
    [
        (10, 1, [(1, 10, 1.0)]),
        (10, 2, [(1, 5, 0.5), (2, 5, 1.0)]),
        (10, 3, [(1, 3, 1 / 3), (2, 4, 2 / 3), (3, 3, 1.0)]),
        (2, 5, [(1, 1, 0.5), (2, 1, 1.0)]),
        (0, 2, []),
    ],
)
def test_admm_epochs_are_split_over_the_steps(epochs, steps, expected):
    phases = plan_admm(schedule(epochs=epochs, steps=steps), 7)
    assert [(p.step, p.epochs, p.share) for p in phases] == expected
    assert [p.length for p in phases] == [7 * p.epochs for p in phases]
    assert {p.stage for p in phases} <= {"admm"}


def test_the_retraining_is_one_phase_or_none():
    assert [(p.stage, p.epochs) for p in plan_retraining(schedule(retrain=4), 7)] == [
        ("retrain", 4)
    ]
    assert plan_retraining(schedule(retrain=0), 7) == []
