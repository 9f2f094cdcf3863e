"""Comparisons, truths and choices, element by element: labels that meet become equal."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxadmm.ops._base import BuildScope, register
from onnxadmm.ops.elementwise import Binary, Elementwise


class Comparison(Binary):
    """Two inputs, one truth: its operands are thresholds, no weights."""

    weight_ports = ()


def _comparison(op_type: str, versions: tuple[int, ...], function: str, meaning: str) -> None:
    """Register an operator that differs from others by a torch function alone."""
    members = {"op_type": op_type, "versions": versions, "function": function, "__doc__": meaning}
    register(type(op_type, (Comparison,), members))


_comparison("Equal", (7, 11, 13, 19), "eq", "a = b.")
_comparison("Less", (7, 9, 13), "lt", "a < b.")
_comparison("LessOrEqual", (12, 16), "le", "a ≤ b.")
_comparison("Greater", (7, 9, 13), "gt", "a > b.")
_comparison("GreaterOrEqual", (12, 16), "ge", "a ≥ b.")
_comparison("And", (7,), "logical_and", "Both truths.")
_comparison("Or", (7,), "logical_or", "Either truth.")
_comparison("Xor", (7,), "logical_xor", "One truth of two.")
_comparison("BitwiseAnd", (18,), "bitwise_and", "The bits that both have.")
_comparison("BitwiseOr", (18,), "bitwise_or", "The bits that either has.")
_comparison("BitwiseXor", (18,), "bitwise_xor", "The bits that one of two has.")


@register
class Where(Elementwise):
    """The second input where the first is true, the third elsewhere."""

    op_type = "Where"
    versions = (9, 16)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's where."""
        import torch

        return scope.call(torch.where, *(scope.tensor(v) for v in node.inputs))
