"""The W-step and the masked retraining, their losses and metrics, and the checkpoints."""

from __future__ import annotations

from onnxadmm.training.checkpoints import Checkpoint, CheckpointStore
from onnxadmm.training.engine import EpochRecord, Phase, Trained, Trainer, plan
from onnxadmm.training.objectives import measure

__all__ = [
    "Checkpoint",
    "CheckpointStore",
    "EpochRecord",
    "Phase",
    "Trained",
    "Trainer",
    "measure",
    "plan",
]
