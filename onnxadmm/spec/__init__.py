"""The spec: what a user asks for, strict and frozen."""

from __future__ import annotations

from onnxadmm.spec.model import (
    ActivationQuantization,
    Benchmark,
    Data,
    Distillation,
    Gates,
    Normalize,
    Objective,
    Optimizer,
    Preprocess,
    Prune,
    Quantize,
    Rho,
    Schedule,
    Spec,
    Split,
    WeightQuantization,
    spec_schema,
)
from onnxadmm.spec.reading import dump_spec, parse_spec, read_spec

__all__ = [
    "ActivationQuantization",
    "Benchmark",
    "Data",
    "Distillation",
    "Gates",
    "Normalize",
    "Objective",
    "Optimizer",
    "Preprocess",
    "Prune",
    "Quantize",
    "Rho",
    "Schedule",
    "Spec",
    "Split",
    "WeightQuantization",
    "dump_spec",
    "parse_spec",
    "read_spec",
    "spec_schema",
]
