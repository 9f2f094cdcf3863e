"""Where a run is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from onnxadmm.training.phases import Phase


@dataclass
class Position:
    """Where a run is: what a checkpoint must hold beside tensors.

    Attributes:
        phase: Index of the phase.
        epoch: Epochs of the phase that are done.
        batch: Optimizer steps of the epoch that are done.
        step: Optimizer steps of the run that are done.
        loss_sum: Of the epoch's steps.
        scale: The loss that counts as large, from before the first step; None where none does.
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
    scale: float | None = None
    converged: bool = False
    retreats: int = 0
    residuals: dict[str, float] = field(default_factory=dict)
    constraints: dict[str, dict[str, float]] = field(default_factory=dict)

    def require_within(self, phases: Sequence[Phase]) -> None:
        """Refuse a position that no run of these phases comes to.

        Raises:
            ValueError: It is none.
        """
        counts = (self.phase, self.epoch, self.batch, self.step, self.retreats)
        inside = self.phase < len(phases)
        phase = phases[self.phase] if inside else None
        steps = phase.steps_of(self.epoch) if phase and self.epoch < phase.epochs else 0
        if min(counts) < 0 or self.phase > len(phases) or self.batch > steps:
            raise ValueError(f"{self}")
