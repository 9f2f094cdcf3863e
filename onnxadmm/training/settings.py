"""What all trainers of a run share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from onnxadmm.data import Dataset
from onnxadmm.progress import NeverStop, Progress, Silent, StopRequest
from onnxadmm.spec import Schedule
from onnxadmm.training.augmenting import Augmentation
from onnxadmm.training.objectives import Goal


@dataclass(frozen=True)
class Settings:
    """What all trainers of a run share.

    Attributes:
        train: Samples to train on.
        evaluate: Samples to measure on after each epoch.
        batch_size: Samples a step, as the spec has it.
        goal: Loss and metric.
        output: Index of the model output that the loss reads.
        schedule: Optimizer, ρ, updates.
        seed: Seeds the order of the samples.
        progress: Listens.
        stop: Asked after every step; the state is saved before the run stops.
        augmentation: What moves the images of a training step.
        scratch: A folder for the state that a run goes back to; the system's for temporary files where it is None.
    """

    train: Dataset
    evaluate: Dataset | None
    batch_size: int
    goal: Goal
    output: int
    schedule: Schedule
    seed: int
    progress: Progress = field(default_factory=Silent)
    stop: StopRequest = field(default_factory=NeverStop)
    augmentation: Augmentation | None = None
    scratch: Path | None = None

    @property
    def batch(self) -> int:
        """Samples a step, where there are enough."""
        return min(self.batch_size, len(self.train))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch; samples that fill no batch are left for the next order."""
        return len(self.train) // self.batch
