"""The report: the JSON document with its schema, the gates, and what people read."""

from __future__ import annotations

from onnxadmm.report.document import (
    BatchLatency,
    ChannelClass,
    Epoch,
    Gate,
    LatencyFacts,
    ModelFacts,
    PackedTensor,
    Ratios,
    Report,
    Residuals,
    SpeedupFacts,
    Stage,
    Unmeasured,
    Verification,
    report_schema,
    thin,
)
from onnxadmm.report.gates import judge
from onnxadmm.report.rendering import render_all

__all__ = [
    "BatchLatency",
    "ChannelClass",
    "Epoch",
    "Gate",
    "LatencyFacts",
    "ModelFacts",
    "PackedTensor",
    "Ratios",
    "Report",
    "Residuals",
    "SpeedupFacts",
    "Stage",
    "Unmeasured",
    "Verification",
    "judge",
    "render_all",
    "report_schema",
    "thin",
]
