"""All that is known of each operator, side by side: labels, resizing, torch calls, cost."""

from __future__ import annotations

from onnxadmm.ops import (
    activation,
    convolution,
    elementwise,
    linear,
    movement,
    normalization,
    pooling,
)
from onnxadmm.ops._base import (
    BuildScope,
    CutScope,
    Labels,
    LabelScope,
    Operator,
    Shapes,
    describe,
    find,
    find_for_training,
    fix_all,
    registered,
    unlabelled,
)
from onnxadmm.ops.roles import held_tensors, layer_weights, weights

__all__ = [
    "BuildScope",
    "CutScope",
    "LabelScope",
    "Labels",
    "Operator",
    "Shapes",
    "activation",
    "convolution",
    "describe",
    "elementwise",
    "find",
    "find_for_training",
    "fix_all",
    "held_tensors",
    "layer_weights",
    "linear",
    "movement",
    "normalization",
    "pooling",
    "registered",
    "unlabelled",
    "weights",
]
