"""The whole flow from a model and a spec to a proven, measured result."""

from __future__ import annotations

from onnxadmm.pipeline.flow import Result, compress
from onnxadmm.pipeline.inspection import Inspection, inspect

__all__ = ["Inspection", "Result", "compress", "inspect"]
