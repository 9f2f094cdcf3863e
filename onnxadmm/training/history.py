"""What a run did, epoch by epoch, and how it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from onnxadmm.admm import Grid
from onnxadmm.errors import one_line
from onnxadmm.spec import Objective
from onnxadmm.training.phases import Phase


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What one epoch did; residuals are relative (see `admm.Residuals`)."""

    epoch: int
    stage: Literal["admm", "retrain"]
    step: int
    loss: float
    metric: float | None
    rho: float | None
    primal: float | None
    dual: float | None
    seconds: float
    constraints: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """What training leaves: masks and levels of the constrained weights, and its history.

    The weights themselves are in the module. `masks` broadcast to their weights' shapes.
    """

    masks: dict[str, Tensor]
    history: list[EpochRecord]
    grids: dict[str, Grid] = field(default_factory=dict)


def phase_name(phase: Phase) -> str:
    """Return a phase as a person calls it."""
    return f"ADMM step {phase.step}," if phase.stage == "admm" else "retraining,"


def describe(record: EpochRecord, phase: Phase, objective: Objective) -> str:
    """Return one line on an epoch."""
    parts = [f"{phase_name(phase)} epoch {record.epoch}: loss {record.loss:.4f}"]
    if record.metric is not None:
        parts.append(f"{objective.resolved_metric} {record.metric:.4f}")
    if record.rho is not None:
        parts.append(f"ρ {record.rho:.2g}")
    if record.primal is not None and record.dual is not None:
        residuals = f"primal {record.primal:.2g}, dual {record.dual:.2g}"
        parts.append(residuals + farthest(record.constraints))
    parts.append(f"{record.seconds:.1f} s")
    return ", ".join(parts)


def farthest(constraints: Mapping[str, Mapping[str, float]]) -> str:
    """Return which constraint is farthest from being met, as an insertion; nothing for a single one."""
    if len(constraints) < 2:  # noqa: PLR2004
        return ""
    name = max(constraints, key=lambda n: constraints[n]["primal"])
    return f" (most: {one_line(name, 40)} {constraints[name]['primal']:.2g})"
