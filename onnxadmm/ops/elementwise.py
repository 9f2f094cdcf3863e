"""Operators that combine tensors element by element: labels that meet become equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxadmm.graph import constant_of
from onnxadmm.ops._base import (
    BuildScope,
    CutScope,
    Labels,
    LabelScope,
    Operator,
    describe,
    is_guarded,
    register,
    unlabelled,
)
from onnxadmm.ops.counts import mend_count
from onnxadmm.ops.unsigned import compute, is_unsigned, kind_of_value


def meet(
    scope: LabelScope, operands: list[list[Labels]], shape: tuple[int, ...], reason: str
) -> list[Labels]:
    """Unite the axes of operands that numpy's broadcasting lays on each other.

    Args:
        scope: Where labels are united.
        operands: The axes of each operand; fewer axes than the result are aligned at the end.
        shape: The result's shape.
        reason: Why a channel that meets an axis without channels is fixed.

    Returns:
        The labels of the result, axis by axis.
    """
    axes: list[Labels] = []
    for position, size in enumerate(shape):
        there: Labels | None = None
        for operand in operands:
            axis = position - (len(shape) - len(operand))
            # An operand of size 1 is stretched over the axis: it says nothing of its channels.
            if axis < 0 or len(operand[axis]) != size or (size > 1 and len(operand[axis]) == 1):
                continue
            if there is None:
                there = operand[axis]
            else:
                scope.unite(there, operand[axis], reason)
        axes.append(unlabelled(size) if there is None else there)
    return axes


class Elementwise(Operator):
    """Any number of inputs, combined with numpy's broadcasting."""

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Equal positions, equal labels."""
        operands = [scope.axes(v) for v in node.inputs if v is not None]
        shape = scope.shape(node.outputs[0])
        scope.assign(node.outputs[0], meet(scope, operands, shape, f"meets {describe(node)}"))


class Binary(Elementwise):
    """Two inputs and one torch function."""

    weight_ports: ClassVar[tuple[int, ...]] = (0, 1)
    function: ClassVar[str]

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call the torch function of the same meaning."""
        import torch

        if is_unsigned(node.inputs[0], scope):
            return scope.call(compute, self.function, *(scope.tensor(v) for v in node.inputs))
        function: Callable[..., Any] = getattr(torch, self.function)
        return scope.call(function, scope.tensor(node.inputs[0]), scope.tensor(node.inputs[1]))


@register
class Add(Binary):
    """a + b."""

    op_type, versions, function = "Add", (7, 13, 14), "add"


@register
class Sub(Binary):
    """a - b."""

    op_type, versions, function = "Sub", (7, 13, 14), "sub"


@register
class Mul(Binary):
    """a · b."""

    op_type, versions, function = "Mul", (7, 13, 14), "mul"

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Mend the number of a mean by hand."""
        mend_count(node, scope)


@register
class Div(Binary):
    """a / b; integers are divided towards zero."""

    op_type, versions, function = "Div", (7, 13, 14), "div"

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Equal positions, equal labels; without Where a divisor that masking would set to zero keeps its channels."""
        super().labels(node, scope)
        divisor = node.inputs[1]
        if divisor is not None and constant_of(divisor) is not None and not is_guarded(node):
            for labels in scope.axes(divisor):
                scope.fix(labels, f"{describe(node)} divides by them")

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Mend the number of a mean by hand."""
        mend_count(node, scope)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's div, truncating for integers."""
        import torch

        first = node.inputs[0]
        assert first is not None
        if is_unsigned(first, scope):
            return scope.call(compute, "div", *(scope.tensor(v) for v in node.inputs))
        kind = kind_of_value(first, scope)
        whole = kind is not None and kind.is_integer()
        return scope.call(
            torch.div,
            scope.tensor(first),
            scope.tensor(node.inputs[1]),
            rounding_mode="trunc" if whole else None,
        )


@register
class PRelu(Elementwise):
    """x where x >= 0, slope · x elsewhere, slope broadcast to x."""

    op_type = "PRelu"
    versions = (7, 9, 16)
    weight_ports = (1,)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Compose it from clamps: torch's own wants another layout of the slope."""
        import torch

        x, slope = scope.tensor(node.inputs[0]), scope.tensor(node.inputs[1])
        negative = scope.call(torch.clamp, x, max=0)
        scaled = scope.call(torch.mul, negative, slope)
        return scope.call(torch.add, scope.call(torch.clamp, x, min=0), scaled)


def scalar(content: np.ndarray[Any, Any] | None) -> float | None:
    """Return a constant of one element as a Python number; as a tensor it costs torch more."""
    return None if content is None or content.size != 1 else float(content.reshape(()))
