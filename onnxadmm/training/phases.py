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
    """

    stage: Literal["admm", "retrain"]
    step: int
    length: int
    share: float
    steps_per_epoch: int
    interval: int = 1
    per_epoch: int | None = None

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
        bounds = _split(schedule.epochs.steps, schedule.steps)
    else:
        bounds = [b * steps_per_epoch for b in _split(schedule.epochs, schedule.steps)]
    per_epoch = None
    if schedule.update_every is not None:
        interval = schedule.update_every
    else:
        per_epoch = schedule.updates_per_epoch or UPDATES_PER_EPOCH
        # An epoch of fewer steps than updates does one after each step.
        interval = max(1, steps_per_epoch // per_epoch)
    lengths = [end - start for start, end in itertools.pairwise(bounds)]
    return [
        Phase(
            "admm",
            number,
            length,
            number / len(lengths),
            steps_per_epoch,
            # A phase that is shorter than an interval ends with its only update.
            min(interval, length),
            per_epoch,
        )
        for number, length in enumerate(lengths, start=1)
    ]


def plan_retraining(schedule: Schedule, steps_per_epoch: int) -> list[Phase]:
    """Return the retraining as one phase, or none."""
    step = max(1, len(plan_admm(schedule, steps_per_epoch)))
    length = in_steps(schedule.retrain, steps_per_epoch)
    return [Phase("retrain", step, length, 1.0, steps_per_epoch)] if length else []


def _split(total: int, parts: int) -> Sequence[int]:
    """Return the bounds of `total` split evenly, in at most so many parts of 1 and more."""
    parts = min(parts, total)
    return [round(total * i / parts) for i in range(parts + 1)] if parts else [0]
