"""Definitions older than opset 7, of which models converted long ago are made.

Their broadcasting was an attribute: the second operand's axes lay on those of the first from `axis` on.
"""

from __future__ import annotations

from typing import Any, ClassVar

import onnx_ir as ir

from onnxadmm.ops._attributes import integer
from onnxadmm.ops._base import BuildScope, Operator, register
from onnxadmm.ops.linear import Gemm
from onnxadmm.ops.normalization import BatchNormalization
from onnxadmm.ops.pooling import AveragePool


class OldBinary(Operator):
    """Two inputs and one torch function."""

    attributes = frozenset({"axis", "broadcast", "consumed_inputs"})
    weight_ports: ClassVar[tuple[int, ...]] = (0, 1)
    function: ClassVar[str]

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Give the second operand the axes that it lacks behind its own, then call torch."""
        import torch

        first, second = node.inputs[0], node.inputs[1]
        assert first is not None
        assert second is not None
        other = scope.tensor(second)
        if integer(node, "broadcast", 0) and "axis" in node.attributes:
            axis, rank = integer(node, "axis", 0), scope.rank(first)
            axis = axis + rank if axis < 0 else axis
            behind = rank - axis - scope.rank(second)
            for _ in range(behind):
                other = scope.call(torch.unsqueeze, other, -1)
        return scope.call(getattr(torch, self.function), scope.tensor(first), other)


def _old(op_type: str, versions: tuple[int, ...], function: str, meaning: str) -> None:
    """Register an operator that differs from others by a torch function alone."""
    members = {"op_type": op_type, "versions": versions, "function": function, "__doc__": meaning}
    register(type(f"Old{op_type}", (OldBinary,), members))


_old("Add", (1, 6), "add", "a + b.")
_old("Sub", (1, 6), "sub", "a - b.")
_old("Mul", (1, 6), "mul", "a · b.")
_old("Div", (1, 6), "div", "a / b of floats.")
_old("Pow", (1,), "pow", "a to the power of b.")


@register
class OldPRelu(Operator):
    """x where x >= 0, slope · x elsewhere; a slope for each channel, or one."""

    op_type, versions = "PRelu", (1, 6)
    attributes = frozenset({"consumed_inputs"})
    weight_ports = (1,)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's prelu, whose slopes are those of channels too."""
        import torch.nn.functional as F  # noqa: N812

        return scope.call(F.prelu, scope.tensor(node.inputs[0]), scope.tensor(node.inputs[1]))


@register
class OldGemm(Gemm):
    """Gemm whose third operand is broadcast by an attribute."""

    versions: ClassVar[tuple[int, ...]] = (1, 6)  # type: ignore[assignment]
    attributes = Gemm.attributes | {"broadcast"}


@register
class OldAveragePool(AveragePool):
    """The mean of each window, over what is no padding."""

    versions: ClassVar[tuple[int, ...]] = (1,)  # type: ignore[assignment]


@register
class OldBatchNormalization(BatchNormalization):
    """The form in which `is_test` says that statistics are fixed."""

    versions: ClassVar[tuple[int, ...]] = (6,)  # type: ignore[assignment]
    attributes = BatchNormalization.attributes | {"is_test"}
