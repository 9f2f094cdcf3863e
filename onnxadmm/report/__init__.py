"""The report: the JSON document with its schema, the gates, and what people read."""

from __future__ import annotations

from onnxadmm.report.document import (
    ChannelClass,
    Epoch,
    Gate,
    MetricChange,
    ModelFacts,
    PackedTensor,
    Ratios,
    Report,
    Residuals,
    Stage,
    Unmeasured,
    Verification,
    report_schema,
)
from onnxadmm.report.gates import judge
from onnxadmm.report.profiles import ProfileFacts
from onnxadmm.report.rendering import render_all
from onnxadmm.report.timing import BatchLatency, LatencyFacts, SpeedupFacts, thin

__all__ = [
    "BatchLatency",
    "ChannelClass",
    "Epoch",
    "Gate",
    "LatencyFacts",
    "MetricChange",
    "ModelFacts",
    "PackedTensor",
    "ProfileFacts",
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
