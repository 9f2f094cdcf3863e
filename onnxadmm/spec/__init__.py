"""The spec: what a user asks for, strict and frozen."""

from __future__ import annotations

from onnxadmm.spec.compression import (
    ActivationQuantization,
    Prune,
    Quantize,
    WeightQuantization,
)
from onnxadmm.spec.model import (
    Augment,
    Benchmark,
    Data,
    Drop,
    Gates,
    Normalize,
    Preprocess,
    Provider,
    Spec,
    Split,
    spec_schema,
)
from onnxadmm.spec.reading import dump_spec, parse_spec, read_spec
from onnxadmm.spec.training import (
    Distillation,
    Length,
    LrSchedule,
    Objective,
    Optimizer,
    Option,
    Rho,
    Schedule,
    Steps,
    Train,
)

__all__ = [
    "ActivationQuantization",
    "Augment",
    "Benchmark",
    "Data",
    "Distillation",
    "Drop",
    "Gates",
    "Length",
    "LrSchedule",
    "Normalize",
    "Objective",
    "Optimizer",
    "Option",
    "Preprocess",
    "Provider",
    "Prune",
    "Quantize",
    "Rho",
    "Schedule",
    "Spec",
    "Split",
    "Steps",
    "Train",
    "WeightQuantization",
    "dump_spec",
    "parse_spec",
    "read_spec",
    "spec_schema",
]
