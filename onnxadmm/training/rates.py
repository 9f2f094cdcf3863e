"""The learning rate over the steps of a phase."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import lr_scheduler

from onnxadmm.spec import LrSchedule, Schedule
from onnxadmm.training.optimizers import Scheduler, make_scheduler
from onnxadmm.training.phases import Phase, in_steps

RETREAT_FACTOR = 0.1
"""After each retreat the learning rate is this share of what it was."""

_COSINE = LrSchedule(name="CosineAnnealingLR", restart="phase")


class LearningRate:
    """Moves an optimizer's rate as the spec says.

    The spec's schedule moves the nominal rate; the warm-up and what a run that diverged has to give up
    are factors on it, which hold for one step: so they go with any schedule.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule, phase: Phase) -> None:
        """Begin a phase at the base rate.

        Args:
            optimizer: Torch's own.
            schedule: The spec's.
            phase: Its lengths.
        """
        self._optimizer, self._phase = optimizer, phase
        self._warmup = in_steps(schedule.warmup, phase.steps_per_epoch)
        self._rule = None if schedule.lr_schedule == "auto" else schedule.lr_schedule
        if self._rule is None and phase.stage == "retrain":
            self._rule = _COSINE
        # Some schedules move momentum too, and leave marks in the group.
        self._base = [_settings(g) for g in optimizer.param_groups]
        self._since = 0
        self._scheduler = self._make()

    def before_step(self, done: int, retreats: int) -> None:
        """Set the rate of a step.

        Args:
            done: Steps of the phase that are done.
            retreats: So often the run went back, since it diverged.
        """
        factor = RETREAT_FACTOR**retreats
        if done < self._warmup:
            factor *= (done + 1) / (self._warmup + 1)
        self._nominal = [g["lr"] for g in self._optimizer.param_groups]
        for group in self._optimizer.param_groups:
            group["lr"] *= factor

    def after_step(self) -> None:
        """Move the nominal rate on."""
        for group, rate in zip(self._optimizer.param_groups, self._nominal, strict=True):
            group["lr"] = rate
        self._since += 1
        if self._rule is None or isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            return
        assert self._scheduler is not None
        if self._since % self._unit == 0 and self._since < self._length:
            with warnings.catch_warnings():
                # torch takes a first step that a scaled loss made the optimizer pass over for one in the wrong order.
                warnings.filterwarnings("ignore", message=".*`optimizer.step")
                self._scheduler.step()

    def after_update(self) -> None:
        """Start afresh, where each W-step does: Z and U were updated."""
        if (
            self._rule is not None
            and self._phase.stage == "admm"
            and self._rule.restart == "interval"
        ):
            self._since = 0
            self._scheduler = self._make()

    def after_epoch(self, loss: float) -> None:
        """Look at an epoch's loss, where the schedule does."""
        if isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(loss)

    def pack(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        held = {} if self._scheduler is None else self._scheduler.state_dict()
        return {
            "since": self._since,
            "groups": [_settings(g) for g in self._optimizer.param_groups],
            # What isn't plain follows from the spec.
            "schedule": {n: v for n, v in held.items() if _is_plain(v)},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `pack` gave."""
        self._since = state["since"]
        self._set(state["groups"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(dict(state["schedule"]))

    @property
    def _length(self) -> int:
        """Steps until the schedule starts afresh."""
        by_interval = (
            self._phase.stage == "admm" and self._rule and self._rule.restart == "interval"
        )
        return self._phase.interval if by_interval else self._phase.length

    @property
    def _unit(self) -> int:
        """Steps of one move of the schedule."""
        by_epoch = self._rule is not None and self._rule.every == "epoch"
        return self._phase.steps_per_epoch if by_epoch else 1

    def _make(self) -> Scheduler | None:
        if self._rule is None:
            return None
        self._set(self._base)
        return make_scheduler(self._rule, self._optimizer, -(-self._length // self._unit))

    def _set(self, groups: list[dict[str, Any]]) -> None:
        for group, wanted in zip(self._optimizer.param_groups, groups, strict=True):
            for name in [n for n in group if n != "params" and n not in wanted]:
                del group[name]
            # JSON has lists for tuples.
            group.update({n: tuple(v) if isinstance(v, list) else v for n, v in wanted.items()})


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a parameter group holds beside its parameters."""
    return {n: v for n, v in group.items() if n != "params"}


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)
