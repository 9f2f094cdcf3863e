"""Matrix products: Gemm and MatMul."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir

from onnxadmm.graph import constant_of
from onnxadmm.ops._attributes import integer, number
from onnxadmm.ops._base import (
    BuildScope,
    Labels,
    LabelScope,
    Operator,
    Shapes,
    describe,
    optional_input,
    register,
)
from onnxadmm.ops.elementwise import meet


@register
class Gemm(Operator):
    """alpha · A' B' + beta · C with A' [M, K], B' [K, N] and C broadcast to [M, N]."""

    op_type = "Gemm"
    versions = (7, 9, 11, 13)
    attributes = frozenset({"alpha", "beta", "transA", "transB"})
    weight_ports = (0, 1, 2)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Columns of A meet rows of B; columns of B are the output's channels."""
        a, b = node.inputs[0], node.inputs[1]
        assert a is not None
        assert b is not None
        reason = f"meets {describe(node)}"
        a_axes, b_axes = scope.axes(a), scope.axes(b)
        rows, inner = reversed(a_axes) if integer(node, "transA", 0) else a_axes
        b_inner, columns = reversed(b_axes) if integer(node, "transB", 0) else b_axes
        scope.unite(inner, b_inner, reason)
        outputs = [rows, columns]
        bias = optional_input(node, 2)
        if bias is not None:
            outputs = meet(scope, [outputs, scope.axes(bias)], scope.shape(node.outputs[0]), reason)
        scope.produce(node, columns)
        scope.assign(node.outputs[0], outputs)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's linear where it fits, addmm's parts elsewhere."""
        import torch
        import torch.nn.functional as F  # noqa: N812

        alpha, beta = number(node, "alpha", 1.0), number(node, "beta", 1.0)
        trans_a, trans_b = integer(node, "transA", 0), integer(node, "transB", 0)
        bias = optional_input(node, 2)
        a, b, c = (scope.tensor(v) for v in (node.inputs[0], node.inputs[1], bias))
        if (
            trans_b
            and not trans_a
            and alpha == beta == 1.0
            and (bias is None or scope.rank(bias) == 1)
        ):
            return scope.call(F.linear, a, b, c)
        a = scope.call(torch.t, a) if trans_a else a
        b = scope.call(torch.t, b) if trans_b else b
        product = scope.call(torch.matmul, a, b)
        product = product if alpha == 1.0 else scope.call(torch.mul, product, alpha)
        return product if c is None else scope.call(torch.add, product, c, alpha=beta)

    def macs(self, node: ir.Node, shapes: Shapes) -> int:
        """M · N · K."""
        assert node.inputs[0] is not None
        a = shapes[node.inputs[0].name or ""]
        inner = a[0] if integer(node, "transA", 0) else a[1]
        return math.prod(shapes[node.outputs[0].name or ""]) * inner


def multiply_labels(
    node: ir.Node, scope: LabelScope, a_axes: list[Labels], b_axes: list[Labels]
) -> None:
    """Give the first output the labels of a matrix product of operands with these labels."""
    reason = f"meets {describe(node)}"
    b_inner = b_axes[-2] if len(b_axes) > 1 else b_axes[-1]
    scope.unite(a_axes[-1], b_inner, reason)
    if b_inner.any() and all(constant_of(v) is None for v in node.inputs[:2]):
        scope.take_live(node)
    out = scope.shape(node.outputs[0])
    tail: list[Labels] = []
    if len(a_axes) > 1:
        tail.append(a_axes[-2])
    if len(b_axes) > 1:
        tail.append(b_axes[-1])
        scope.produce(node, b_axes[-1])
    lead = out[: len(out) - len(tail)]
    leading = meet(scope, [a_axes[:-2], b_axes[:-2]], lead, reason)
    scope.assign(node.outputs[0], [*leading, *tail])


@register
class MatMul(Operator):
    """Matrix product with numpy's broadcasting over leading axes."""

    op_type = "MatMul"
    versions = (1, 9, 13)
    weight_ports = (0, 1)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """The contracted axes meet; the others pass on, leading ones as elements."""
        a, b = node.inputs[0], node.inputs[1]
        assert a is not None
        assert b is not None
        multiply_labels(node, scope, scope.axes(a), scope.axes(b))

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's matmul: the same broadcasting."""
        import torch

        return scope.call(torch.matmul, scope.tensor(node.inputs[0]), scope.tensor(node.inputs[1]))

    def macs(self, node: ir.Node, shapes: Shapes) -> int:
        """Output elements times the contracted length."""
        assert node.inputs[0] is not None
        return math.prod(shapes[node.outputs[0].name or ""]) * shapes[node.inputs[0].name or ""][-1]


@register
class Det(Operator):
    """The determinant of matrices, the last two axes."""

    op_type = "Det"
    versions = (11, 22)
    # Every element of a matrix has its part.
    fixes = " is computed over all of these channels"

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's det."""
        import torch

        return scope.call(torch.linalg.det, scope.tensor(node.inputs[0]))
