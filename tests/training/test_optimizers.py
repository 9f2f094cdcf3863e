"""Optimizers, learning-rate schedules, clipping and averages: torch's own behaviour, wherever a run stops."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import IDENTITY, STEPS, outcome, rates_of, trainer, watch
from stopping import StopAfter
from torch.optim import lr_scheduler

from onnxadmm.errors import Interrupted, SpecError
from onnxadmm.spec import LrSchedule, Optimizer, Schedule, Steps
from onnxadmm.training import CheckpointStore, check_schedule, plan_admm
from onnxadmm.training.averaging import Average
from onnxadmm.training.optimizers import make_optimizer, state_copies
from onnxadmm.training.rates import LearningRate

OPTIMIZERS = get_args(Optimizer.model_fields["name"].annotation)
SCHEDULES = {
    "ConstantLR": {"factor": 0.5, "total_iters": 2},
    "CosineAnnealingLR": {"eta_min": 1e-4},
    "CosineAnnealingWarmRestarts": {"T_0": 2, "T_mult": 2},
    "CyclicLR": {"base_lr": 1e-4, "max_lr": 1e-2, "step_size_up": 2},
    "ExponentialLR": {"gamma": 0.9},
    "LinearLR": {"start_factor": 0.1},
    "MultiStepLR": {"milestones": (1, 3), "gamma": 0.5},
    "OneCycleLR": {"max_lr": 0.02},
    "PolynomialLR": {"power": 2.0},
    "ReduceLROnPlateau": {"patience": 0, "factor": 0.5, "threshold": 0.5},
    "StepLR": {"step_size": 2, "gamma": 0.5},
}


def test_every_named_schedule_of_the_spec_is_tried_here():
    assert set(SCHEDULES) == set(get_args(LrSchedule.model_fields["name"].annotation))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_is_resumed_bit_for_bit_and_keeps_what_is_estimated(name, tmp_path):
    schedule = {"optimizer": Optimizer(name=name, lr=0.01), "epochs": 1, "steps": 1}
    net, made = trainer("admm", schedule=schedule)
    held = []
    watch(made, step=lambda phase, take, index: (held.append(phase.optimizer), take(index))[1])
    expected = outcome(net, made.run())
    state = [t for s in held[-1].state.values() for t in s.values() if torch.is_tensor(t)]
    weights = sum(w.numel() for w in net.imported.binding.values())
    copies = sum(t.numel() for t in state if t.numel() > 1) / weights
    assert state_copies(schedule["optimizer"]) - 1 < copies <= state_copies(schedule["optimizer"])
    store = CheckpointStore(tmp_path, IDENTITY)
    _, made = trainer("admm", store, stop=StopAfter(3), schedule=schedule)
    with pytest.raises(Interrupted):
        made.run()
    net, made = trainer("admm", store, schedule=schedule)
    assert outcome(net, made.run()) == expected


@pytest.mark.parametrize("restart", ["interval", "phase"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_resumed_bit_for_bit(name, restart, tmp_path):
    rule = LrSchedule(name=name, options=SCHEDULES[name], restart=restart)
    given = {
        "lr_schedule": rule,
        "optimizer": Optimizer(name="SGD", lr=0.01),
        "warmup": Steps(steps=2),
        "epochs": Steps(steps=6),
        "steps": 1,
        "update_every": 3,
    }
    net, made = trainer("admm", schedule=given)
    expected = outcome(net, made.run())
    store = CheckpointStore(tmp_path, IDENTITY)
    for _ in range(3):  # after steps 2, 4 and 6: within an interval, and at its end
        _, made = trainer("admm", store, stop=StopAfter(2), schedule=given)
        with pytest.raises(Interrupted):
            made.run()
    net, made = trainer("admm", store, schedule=given)
    assert outcome(net, made.run()) == expected


@pytest.mark.parametrize("name", [n for n in SCHEDULES if n != "ReduceLROnPlateau"])
def test_a_schedule_over_the_retraining_is_torchs_own(name):
    rule = LrSchedule(name=name, options=SCHEDULES[name])
    chosen = Optimizer(name="SGD", lr=0.01)
    _, made = trainer(
        "retrain", schedule={"lr_schedule": rule, "optimizer": chosen, "retrain": Steps(steps=7)}
    )
    used = rates_of(made)
    made.run()
    lengths = {"CosineAnnealingLR": "T_max", "OneCycleLR": "total_steps"}
    lengths |= {"LinearLR": "total_iters", "PolynomialLR": "total_iters"}
    options = {lengths[name]: 7, **SCHEDULES[name]} if name in lengths else SCHEDULES[name]
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01, momentum=0.9)
    scheduler = getattr(lr_scheduler, name)(reference, **options)
    expected = []
    for count in range(7):
        expected.append(reference.param_groups[0]["lr"])
        reference.step()
        if count < 6:
            scheduler.step()
    assert used == expected


def test_in_admm_a_schedule_starts_afresh_at_each_update_or_with_each_phase():
    for restart in ("interval", "phase"):
        rule = LrSchedule(name="StepLR", options={"step_size": 1, "gamma": 0.5}, restart=restart)
        schedule = {"lr_schedule": rule, "epochs": Steps(steps=6), "steps": 1, "update_every": 3}
        _, made = trainer("admm", schedule=schedule)
        used = rates_of(made)
        made.run()
        falling = [0.01 * 0.5**k for k in range(6)]
        assert used == (falling[:3] * 2 if restart == "interval" else falling)


def test_a_schedule_that_counts_epochs_moves_once_in_each():
    rule = LrSchedule(
        name="StepLR", options={"step_size": 1, "gamma": 0.5}, every="epoch", restart="phase"
    )
    for kind in ("admm", "retrain"):
        _, made = trainer(
            kind, schedule={"lr_schedule": rule, "epochs": 2, "retrain": 2, "steps": 1}
        )
        used = rates_of(made)
        made.run()
        assert used == [0.01] * STEPS + [0.005] * STEPS


def test_the_plateau_is_that_of_the_epochs_losses():
    rule = LrSchedule(
        name="ReduceLROnPlateau", options={"patience": 0, "factor": 0.5, "threshold": 0.9999}
    )
    _, made = trainer("retrain", schedule={"lr_schedule": rule, "retrain": 3})
    used = rates_of(made)
    made.run()
    # The first loss is the best so far; none after it is a ten-thousandth of it.
    assert used == [0.01] * 2 * STEPS + [0.005] * STEPS


def test_the_rate_rises_linearly_at_the_start_of_each_phase():
    schedule = {"epochs": Steps(steps=8), "steps": 2, "warmup": Steps(steps=3)}
    _, made = trainer("admm", schedule=schedule)
    used = rates_of(made)
    made.run()
    assert used == pytest.approx([0.0025, 0.005, 0.0075, 0.01] * 2)


@pytest.mark.parametrize("kind", ["admm", "retrain"])
def test_clipping_shortens_the_losss_gradient_and_leaves_the_penalty_whole(kind):
    found = {}
    for clip in ({}, {"clip_norm": 1e-3}, {"clip_value": 1e-4}):
        net, made = trainer(kind, schedule={"epochs": 1, "retrain": 1, **clip})
        weights = net.imported.binding

        def reading(phase, take, index, weights=weights, clip=clip):
            penalty = {n: torch.zeros_like(w) for n, w in weights.items()}
            if phase.solver is not None:
                solver = phase.solver
                for rho, z, u in zip(solver.rhos, solver.z, solver.u, strict=True):
                    for n in z:
                        penalty[n] += rho * (weights[n].detach() - z[n] + u[n])
            value = take(index)
            parts = [weights[n].grad - penalty[n] for n in weights if weights[n].grad is not None]
            found.setdefault(str(clip), torch.cat([p.flatten() for p in parts]))
            return value

        watch(made, step=reading)
        made.run()
    whole, norm, value = found.values()
    assert norm.norm() == pytest.approx(1e-3, rel=1e-3)
    assert torch.allclose(norm, whole * (1e-3 / whole.norm()), atol=1e-8)
    assert torch.allclose(value, whole.clamp(-1e-4, 1e-4), atol=1e-8)


def test_the_average_is_what_is_kept_and_measured_and_masks_hold_in_it():
    net, _ = trainer("retrain")
    masks = {n: torch.rand(w.shape) > 0.5 for n, w in net.imported.binding.items()}
    net, made = trainer("retrain", masks=masks, schedule={"retrain": 2, "ema": 0.7})
    live = []

    def reading(phase, take, index):
        value = take(index)
        live.append({n: w.detach().clone() for n, w in net.imported.binding.items()})
        return value

    watch(made, step=reading)
    first = {n: w.detach().clone() for n, w in net.imported.binding.items()}
    made.run()
    for name, weight in net.imported.weights().items():
        expected = (first[name] * masks[name]).double()
        for n, w in enumerate(live, start=1):
            decay = min(0.7, (1 + n) / (10 + n))
            expected = decay * expected + (1 - decay) * w[name].double()
        assert np.allclose(weight, expected.numpy(), atol=1e-6), name
        assert not weight[~masks[name].numpy()].any()


@pytest.mark.parametrize("stop", [1, STEPS, STEPS + 2])
def test_the_average_is_resumed_bit_for_bit(stop, tmp_path):
    schedule = {"retrain": 2, "ema": 0.9, "clip_norm": 0.5}
    net, made = trainer("retrain", schedule=schedule)
    expected = outcome(net, made.run())
    store = CheckpointStore(tmp_path, IDENTITY)
    _, made = trainer("retrain", store, stop=StopAfter(stop), schedule=schedule)
    with pytest.raises(Interrupted):
        made.run()
    net, made = trainer("retrain", store, schedule=schedule)
    assert outcome(net, made.run()) == expected


def test_the_average_steps_in_and_out_without_a_trace():
    weights = {"w": torch.nn.Parameter(torch.randn(3, 2))}
    average = Average(weights, 0.5)
    with torch.no_grad():
        weights["w"].add_(1)
    live = weights["w"].detach().clone()
    before = average.held["w"].clone()
    with average.in_place():
        assert torch.equal(weights["w"], before)
    assert torch.equal(weights["w"], live)
    assert torch.equal(average.held["w"], before)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({"optimizer": {"name": "Adam", "options": {"beta": 0.9}}}, "takes no 'beta'.*betas"),
        ({"optimizer": {"name": "Adam", "options": {"betas": (2.0, 0.9)}}}, "Adam refuses .*2.0"),
        ({"optimizer": {"name": "Adam", "options": {"lr": 0.9}}}, "takes no 'lr'"),
        ({"optimizer": {"name": "SGD", "options": {"maximize": True}}}, "takes no 'maximize'"),
        ({"optimizer": {"name": "Rprop", "weight_decay": 0.1}}, "Rprop has none"),
        ({"optimizer": {"name": "Adam", "options": {"eps": "x"}}}, "schedule"),
        ({"lr_schedule": {"name": "StepLR"}}, "StepLR refuses .*step_size"),
        ({"lr_schedule": {"name": "StepLR", "options": {"size": 3}}}, "takes no 'size'.*step_size"),
        ({"lr_schedule": {"name": "ExponentialLR", "options": {"gamma": -1.0}}}, "rate is -"),
        (
            {"lr_schedule": {"name": "OneCycleLR", "options": {"max_lr": 1.0, "total_steps": 3}}},
            "no 'total_s",
        ),
        (
            {"lr_schedule": {"name": "CyclicLR", "options": {"base_lr": "a", "max_lr": 1.0}}},
            "schedule",
        ),
        ({"lr_schedule": {"name": "StepLR", "options": {"step_size": 0}}}, "schedule"),
    ],
)
def test_what_torch_refuses_is_refused_before_anything_runs(schedule, said):
    with pytest.raises(SpecError, match=said) as caught:
        check_schedule(Schedule.model_validate(schedule))
    assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_phases_cover_what_was_asked_for_and_count_their_updates(data):
    steps, parts = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    length, by_steps = data.draw(st.integers(1, 40)), data.draw(st.booleans())
    updates, every = data.draw(st.integers(1, 15)), data.draw(st.none() | st.integers(1, 50))
    wanted = {"update_every": every} if every else {"updates_per_epoch": updates}
    schedule = Schedule(epochs=Steps(steps=length) if by_steps else length, steps=parts, **wanted)
    phases = plan_admm(schedule, steps)
    total = length if by_steps else length * steps
    assert sum(p.length for p in phases) == total
    assert phases[-1].share == 1
    for phase in phases:
        walked = [(e, b) for e in range(phase.epochs) for b in range(1, phase.steps_of(e) + 1)]
        assert len(walked) == phase.length
        done = sum(phase.updates_after(e, b) for e, b in walked)
        assert done == phase.updates >= 1
        if every:
            assert done == max(1, phase.length // every)
        elif not by_steps:
            assert done == phase.epochs * min(updates, steps)


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(sorted(SCHEDULES)), done=st.integers(0, 5), retreats=st.integers(0, 2))
def test_going_back_makes_the_steps_of_any_schedule_smaller(name, done, retreats):
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.ones_like(weight)
    schedule = Schedule(
        optimizer=Optimizer(name="SGD", lr=0.01),
        lr_schedule=LrSchedule(name=name, options=SCHEDULES[name]),
    )
    phase = plan_admm(schedule, 10)[0]
    used = []
    for times in (0, retreats):
        optimizer = make_optimizer(schedule.optimizer, [weight])
        rate = LearningRate(optimizer, schedule, phase)
        for count in range(done + 1):
            rate.before_step(count, times)
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            rate.after_step()
    plain, smaller = used[: done + 1], used[done + 1 :]
    assert smaller == pytest.approx([p * 0.1**retreats for p in plain])
