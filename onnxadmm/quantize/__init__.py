"""Level sets, calibration, and static quantization as QDQ."""

from __future__ import annotations

from onnxadmm.quantize.calibration import Range, observe
from onnxadmm.quantize.levels import project_grid
from onnxadmm.quantize.qdq import Quantized, quantize

__all__ = ["Quantized", "Range", "observe", "project_grid", "quantize"]
