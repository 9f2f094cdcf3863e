"""What a run does, phase by phase."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onnxadmm.spec import Length, Schedule, Steps

UPDATES_PER_EPOCH = 2
"""Of Z and U, where the spec doesn't say."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training under one rule: an ADMM step, or the retraining.

    Attributes:
        stage: What happens.
        step: Number of the progressive step, from 1.
        length: How long at most, in optimizer steps.
        share: How much of the way to the final constraint this step goes.
        steps_per_epoch: Optimizer steps an epoch.
        interval: Optimizer steps between two Z/U updates.
        per_epoch: Updates an epoch at most; None counts intervals over the ends of epochs.
        only: Names of the constraints that it trains towards; None: all.
    """

    stage: Literal["admm", "retrain"]
    step: int
    length: int
    share: float
    steps_per_epoch: int
    interval: int = 1
    per_epoch: int | None = None
    only: frozenset[str] | None = None

    def binds(self, constraint: str) -> bool:
        """Whether this phase trains towards the constraint of this name."""
        return self.only is None or constraint in self.only

    @property
    def epochs(self) -> int:
        """Epochs at most; the last may be a part of one."""
        return -(-self.length // self.steps_per_epoch)

    @property
    def updates(self) -> int:
        """How often Z and U are updated, if the phase doesn't end early."""
        if self.per_epoch is None:
            return self.length // self.interval
        whole, rest = divmod(self.length, self.steps_per_epoch)
        most = min(self.per_epoch, self.steps_per_epoch // self.interval)
        return whole * most + min(most, rest // self.interval)

    def steps_of(self, epoch: int) -> int:
        """Return the steps of an epoch, counted from 0."""
        return min(self.steps_per_epoch, self.length - epoch * self.steps_per_epoch)

    def updates_after(self, epoch: int, batch: int) -> bool:
        """Whether Z and U are updated after so many steps of an epoch."""
        if self.per_epoch is None:
            return (epoch * self.steps_per_epoch + batch) % self.interval == 0
        return batch % self.interval == 0 and batch // self.interval <= self.per_epoch


def in_steps(length: Length, steps_per_epoch: int) -> int:
    """Return a length in optimizer steps."""
    return length.steps if isinstance(length, Steps) else length * steps_per_epoch


def plan_admm(schedule: Schedule, steps_per_epoch: int) -> list[Phase]:
    """Split the ADMM epochs, or optimizer steps, evenly over the progressive steps."""
    if isinstance(schedule.epochs, Steps):
        bounds = _split(schedule.epochs.steps, schedule.steps or 1)
    else:
        bounds = [b * steps_per_epoch for b in _split(schedule.epochs, schedule.steps or 1)]
    lengths = [end - start for start, end in itertools.pairwise(bounds)]
    return [
        _admm(schedule, number, length, steps_per_epoch, share=number / len(lengths))
        for number, length in enumerate(lengths, start=1)
    ]


def _admm(
    schedule: Schedule,
    number: int,
    length: int,
    steps_per_epoch: int,
    *,
    share: float = 1.0,
    only: frozenset[str] | None = None,
) -> Phase:
    """Return an ADMM step with its Z/U updates."""
    per_epoch = None
    if schedule.update_every is not None:
        interval = schedule.update_every
    else:
        per_epoch = schedule.updates_per_epoch or UPDATES_PER_EPOCH
        # An epoch of fewer steps than updates does one after each step.
        interval = max(1, steps_per_epoch // per_epoch)
    # A phase that is shorter than an interval ends with its only update.
    interval = min(interval, length)
    return Phase("admm", number, length, share, steps_per_epoch, interval, per_epoch, only)


def plan_retraining(schedule: Schedule, steps_per_epoch: int) -> list[Phase]:
    """Return the retraining as one phase, or none."""
    step = max(1, len(plan_admm(schedule, steps_per_epoch)))
    length = in_steps(schedule.retrain, steps_per_epoch)
    return [Phase("retrain", step, length, 1.0, steps_per_epoch)] if length else []


def plan_levels(
    schedule: Schedule,
    length: Length,
    steps_per_epoch: int,
    *,
    inner: Sequence[str],
    outer: Sequence[str],
    first: int,
) -> list[Phase]:
    """Return the training towards quantization levels: first the inner layers', then those of the ends.

    The first and the last layer cost most accuracy (arXiv 1903.09769, section 5); the others have settled by
    then. At the end all stay on their levels while training goes on.

    Args:
        schedule: For the updates, and how long training goes on.
        length: Of ADMM; two thirds are the inner layers'.
        steps_per_epoch: Optimizer steps an epoch.
        inner: Names of their constraints.
        outer: Those of the first and last layers.
        first: Number of the first of these steps.
    """
    total = in_steps(length, steps_per_epoch)
    bounds = [0, total]
    if inner and outer:
        unit = 1 if isinstance(length, Steps) else steps_per_epoch
        middle = -(-2 * (total // unit) // 3) * unit
        bounds = [0, middle, total] if middle < total else bounds
    parts = [frozenset(inner), frozenset(outer)] if len(bounds) > 2 else [None]  # noqa: PLR2004
    phases = [
        _admm(schedule, number, end - start, steps_per_epoch, only=only)
        for number, ((start, end), only) in enumerate(
            zip(itertools.pairwise(bounds), parts, strict=True), start=first
        )
    ]
    after = in_steps(schedule.retrain, steps_per_epoch)
    if after:
        phases.append(Phase("retrain", phases[-1].step, after, 1.0, steps_per_epoch))
    return phases


def _split(total: int, parts: int) -> Sequence[int]:
    """Return the bounds of `total` split evenly, in at most so many parts of 1 and more."""
    parts = min(parts, total)
    return [round(total * i / parts) for i in range(parts + 1)] if parts else [0]
