"""What a run does, phase by phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxadmm.spec import Schedule


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training under one rule: an ADMM step, or the retraining.

    Attributes:
        stage: What happens.
        step: Number of the progressive step, from 1.
        epochs: How long at most.
        share: How much of the way to the final constraint this step goes.
    """

    stage: Literal["admm", "retrain"]
    step: int
    epochs: int
    share: float


def plan_admm(schedule: Schedule) -> list[Phase]:
    """Split the ADMM epochs evenly over the progressive steps."""
    steps = min(schedule.steps, schedule.epochs)
    bounds = [round(schedule.epochs * i / steps) for i in range(steps + 1)] if steps else []
    return [Phase("admm", i + 1, bounds[i + 1] - bounds[i], (i + 1) / steps) for i in range(steps)]


def plan_retraining(schedule: Schedule) -> list[Phase]:
    """Return the retraining as one phase, or none."""
    step = max(1, min(schedule.steps, schedule.epochs))
    return [Phase("retrain", step, schedule.retrain, 1.0)] if schedule.retrain else []
