"""Arithmetic beyond the four operations: of many tensors, powers, remainders, shifts."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxadmm.graph import constant_of
from onnxadmm.ops._attributes import integer, text
from onnxadmm.ops._base import BuildScope, LabelScope, describe, fix_all, register
from onnxadmm.ops.elementwise import Elementwise
from onnxadmm.ops.unsigned import compute, is_unsigned


class Variadic(Elementwise):
    """Any number of inputs from one on, and one torch function of two."""

    function: ClassVar[str]

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call the torch function on the inputs from left to right."""
        import torch

        first, *others = (scope.tensor(v) for v in node.inputs)
        unsigned = is_unsigned(node.inputs[0], scope)
        for other in others:
            if unsigned:
                first = scope.call(compute, self.function, first, other)
                continue
            first = scope.call(getattr(torch, self.function), first, other)
        return first


@register
class Min(Variadic):
    """The smallest of each position."""

    op_type, versions, function = "Min", (6, 8, 12, 13), "minimum"


@register
class Max(Variadic):
    """The largest of each position."""

    op_type, versions, function = "Max", (6, 8, 12, 13), "maximum"


@register
class Sum(Variadic):
    """The sum of each position."""

    op_type, versions, function = "Sum", (6, 8, 13), "add"
    weight_ports = (0, 1)


@register
class Mean(Variadic):
    """The mean of each position over the inputs."""

    op_type, versions, function = "Mean", (6, 8, 13), "add"
    weight_ports = (0, 1)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Divide the sum by the number of inputs."""
        import torch

        return scope.call(torch.div, super().build(node, scope), len(node.inputs))


@register
class Pow(Elementwise):
    """The first input to the power of the second, in the first one's type."""

    op_type = "Pow"
    versions = (7, 12, 13, 15)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Join what meets where a removed channel, zero in the reference, stays finite."""
        base, exponent = (_single(constant_of(v)) for v in node.inputs)
        if (exponent is not None and exponent >= 0) or (base is not None and base > 0):
            super().labels(node, scope)
        else:
            fix_all(node, scope, f"{describe(node)} may not be finite at 0")

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's pow, with a Python number for a single exponent: it is faster so."""
        exponent = _single(constant_of(node.inputs[1]))
        power = scope.tensor(node.inputs[1]) if exponent is None else exponent
        return scope.call(_power, scope.tensor(node.inputs[0]), power)


def _single(content: np.ndarray[Any, Any] | None) -> Any:
    """Return a constant [] or [1] as a Python number of its kind; it changes no other tensor's rank."""
    return (
        None if content is None or content.shape not in ((), (1,)) else content.reshape(()).item()
    )


def _power(base: Any, exponent: Any) -> Any:
    """Return base to the exponent, in the type of the base."""
    import torch

    return torch.pow(base, exponent).to(base.dtype)


@register
class Mod(Elementwise):
    """The remainder of a division: with the divisor's sign, or with `fmod` the dividend's."""

    op_type = "Mod"
    versions = (10, 13, 28)
    attributes = frozenset({"fmod"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Join what meets where the divisor is a single number; others may be zero in the reference."""
        if _single(constant_of(node.inputs[1])):  # neither unknown nor 0
            super().labels(node, scope)
        else:
            fix_all(node, scope, f"{describe(node)} may not be finite at 0")

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's fmod or remainder."""
        import torch

        if is_unsigned(node.inputs[0], scope):
            # Without signs both remainders are the same.
            return scope.call(compute, "remainder", *(scope.tensor(v) for v in node.inputs))
        function = torch.fmod if integer(node, "fmod", 0) else torch.remainder
        return scope.call(function, scope.tensor(node.inputs[0]), scope.tensor(node.inputs[1]))


@register
class BitShift(Elementwise):
    """Bits moved to the left or to the right."""

    op_type = "BitShift"
    versions = (11, 28)
    attributes = frozenset({"direction"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call numpy's shift: torch hasn't all types, and others wrap."""
        left = text(node, "direction", "LEFT") == "LEFT"
        name = "bitwise_left_shift" if left else "bitwise_right_shift"
        return scope.call(compute, name, *(scope.tensor(v) for v in node.inputs))
