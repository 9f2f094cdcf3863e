"""The W-step and the masked retraining, their losses and metrics, and the checkpoints."""

from __future__ import annotations

from onnxadmm.training.augmenting import Augmentation
from onnxadmm.training.changes import Change, paired_change
from onnxadmm.training.checkpoints import Checkpoint, CheckpointStore, Manifest
from onnxadmm.training.engine import Trainer
from onnxadmm.training.history import EpochRecord, Trained
from onnxadmm.training.objectives import Goal
from onnxadmm.training.optimizers import check_schedule
from onnxadmm.training.phases import Phase, plan_admm, plan_levels, plan_retraining
from onnxadmm.training.settings import Settings
from onnxadmm.training.teacher import Teacher

__all__ = [
    "Augmentation",
    "Change",
    "Checkpoint",
    "CheckpointStore",
    "EpochRecord",
    "Goal",
    "Manifest",
    "Phase",
    "Settings",
    "Teacher",
    "Trained",
    "Trainer",
    "check_schedule",
    "paired_change",
    "plan_admm",
    "plan_levels",
    "plan_retraining",
]
