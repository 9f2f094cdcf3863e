"""Level sets, calibration, and static quantization as QDQ."""

from __future__ import annotations

from onnxadmm.quantize.calibration import Range, observe
from onnxadmm.quantize.ladders import Levels
from onnxadmm.quantize.levels import (
    BINARY,
    TERNARY,
    level_table,
    power_levels,
    project_levels,
    uniform_levels,
)
from onnxadmm.quantize.placing import integer_layers
from onnxadmm.quantize.probing import signed_is_faster
from onnxadmm.quantize.qdq import OnLevels, Quantized, quantize, require_opset
from onnxadmm.quantize.weights_only import store_levels

__all__ = [
    "BINARY",
    "TERNARY",
    "Levels",
    "OnLevels",
    "Quantized",
    "Range",
    "integer_layers",
    "level_table",
    "observe",
    "power_levels",
    "project_levels",
    "quantize",
    "require_opset",
    "signed_is_faster",
    "store_levels",
    "uniform_levels",
]
