"""Where a run is."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Position:
    """Where a run is: what a checkpoint must hold beside tensors.

    Attributes:
        phase: Index of the phase.
        epoch: Epochs of the phase that are done.
        batch: Optimizer steps of the epoch that are done.
        step: Optimizer steps of the run that are done.
        loss_sum: Of the epoch's steps.
        converged: Whether the phase ends early.
        retreats: So often the run went back, since it diverged.
        residuals: Of the last update, over all constraints.
        constraints: Of the last update, by constraint.
    """

    phase: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    converged: bool = False
    retreats: int = 0
    residuals: dict[str, float] = field(default_factory=dict)
    constraints: dict[str, dict[str, float]] = field(default_factory=dict)
