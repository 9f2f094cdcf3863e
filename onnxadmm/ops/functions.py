"""More functions of one tensor, element by element: rounding, trigonometry, rarer activations."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxadmm.ops._attributes import integer, number
from onnxadmm.ops._base import BuildScope, normal_axis, register
from onnxadmm.ops.activation import AcrossAxis, FlattenedSoftmax, NotFiniteAtZero, Unary
from onnxadmm.ops.unsigned import compute, is_unsigned


def _unary(op_type: str, versions: tuple[int, ...], function: str, meaning: str) -> None:
    """Register an operator that differs from others by a torch function alone."""
    members = {"op_type": op_type, "versions": versions, "function": function, "__doc__": meaning}
    register(type(op_type, (Unary,), members))


_unary("Sign", (9, 13), "sign", "-1, 0 or 1.")
_unary("Floor", (6, 13), "floor", "The next integer below.")
_unary("Ceil", (6, 13), "ceil", "The next integer above.")
_unary("Round", (11, 22), "round", "The nearest integer, halves to the even one.")
_unary("Sin", (7, 22), "sin", "The sine.")
_unary("Cos", (7, 22), "cos", "The cosine.")
_unary("Tan", (7, 22), "tan", "The tangent.")
_unary("Asin", (7, 22), "asin", "The inverse sine.")
_unary("Acos", (7, 22), "acos", "The inverse cosine.")
_unary("Atan", (7, 22), "atan", "The inverse tangent.")
_unary("Sinh", (9, 22), "sinh", "The hyperbolic sine.")
_unary("Cosh", (9, 22), "cosh", "The hyperbolic cosine.")
_unary("Asinh", (9, 22), "asinh", "The inverse hyperbolic sine.")
_unary("Atanh", (9, 22), "atanh", "The inverse hyperbolic tangent.")
_unary("IsNaN", (9, 13, 20), "isnan", "Whether it is not a number.")
_unary("Not", (1,), "logical_not", "The opposite truth.")


@register
class BitwiseNot(Unary):
    """Every bit turned."""

    op_type, versions, function = "BitwiseNot", (18,), "bitwise_not"

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's function, numpy's for unsigned integers that torch doesn't compute."""
        if is_unsigned(node.inputs[0], scope):
            return scope.call(compute, self.function, scope.tensor(node.inputs[0]))
        return super().build(node, scope)


@register
class Acosh(NotFiniteAtZero):
    """The inverse hyperbolic cosine."""

    op_type, versions, function = "Acosh", (9, 22), "acosh"


@register
class IsInf(Unary):
    """Whether it is infinite, on either side or on one."""

    op_type = "IsInf"
    versions = (10, 20)
    attributes = frozenset({"detect_negative", "detect_positive"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call the torch test of the side that is asked for."""
        import torch

        x = scope.tensor(node.inputs[0])
        sides = (integer(node, "detect_negative", 1), integer(node, "detect_positive", 1))
        functions = {(1, 1): torch.isinf, (1, 0): torch.isneginf, (0, 1): torch.isposinf}
        if sides in functions:
            return scope.call(functions[sides], x)
        return scope.call(torch.zeros_like, x, dtype=torch.bool)


@register
class Softplus(Unary):
    """log(1 + exp(x))."""

    op_type, versions = "Softplus", (1, 22)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's softplus."""
        import torch.nn.functional as F  # noqa: N812

        return scope.call(F.softplus, scope.tensor(node.inputs[0]))


@register
class Softsign(Unary):
    """x / (1 + |x|)."""

    op_type, versions = "Softsign", (1, 22)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's softsign."""
        import torch.nn.functional as F  # noqa: N812

        return scope.call(F.softsign, scope.tensor(node.inputs[0]))


@register
class Mish(Unary):
    """x · tanh(softplus(x))."""

    op_type, versions = "Mish", (18, 22)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's mish."""
        import torch.nn.functional as F  # noqa: N812

        return scope.call(F.mish, scope.tensor(node.inputs[0]))


@register
class Swish(Unary):
    """x · sigmoid(alpha · x)."""

    op_type, versions = "Swish", (24,)
    attributes = frozenset({"alpha"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's silu where alpha is 1, compose it elsewhere."""
        import torch
        import torch.nn.functional as F  # noqa: N812

        x, alpha = scope.tensor(node.inputs[0]), number(node, "alpha", 1.0)
        if alpha == 1.0:
            return scope.call(F.silu, x)
        return scope.call(torch.mul, x, scope.call(torch.sigmoid, scope.call(torch.mul, x, alpha)))


@register
class Selu(Unary):
    """gamma · x where x > 0, gamma · alpha · (exp(x) - 1) elsewhere."""

    op_type, versions = "Selu", (6, 22)
    attributes = frozenset({"alpha", "gamma"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Scale torch's elu: torch's selu has fixed constants."""
        import torch
        import torch.nn.functional as F  # noqa: N812

        alpha = number(node, "alpha", 1.6732632423543772)
        bent = scope.call(F.elu, scope.tensor(node.inputs[0]), alpha=alpha)
        return scope.call(torch.mul, bent, number(node, "gamma", 1.0507009873554805))


@register
class Celu(Unary):
    """max(0, x) + min(0, alpha · (exp(x / alpha) - 1))."""

    op_type, versions = "Celu", (12, 28)
    attributes = frozenset({"alpha"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's celu."""
        import torch.nn.functional as F  # noqa: N812

        return scope.call(F.celu, scope.tensor(node.inputs[0]), alpha=number(node, "alpha", 1.0))


@register
class ThresholdedRelu(Unary):
    """x where x > alpha, 0 elsewhere."""

    op_type, versions = "ThresholdedRelu", (10, 22)
    attributes = frozenset({"alpha"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's threshold."""
        import torch.nn.functional as F  # noqa: N812

        return scope.call(
            F.threshold, scope.tensor(node.inputs[0]), number(node, "alpha", 1.0), 0.0
        )


@register
class Shrink(Unary):
    """Pull values beyond ±lambd towards zero by bias; zero between them."""

    op_type, versions = "Shrink", (9,)
    attributes = frozenset({"bias", "lambd"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Compose it: torch's softshrink has one constant for both."""
        x = scope.tensor(node.inputs[0])
        return scope.call(_shrunk, x, number(node, "lambd", 0.5), number(node, "bias", 0.0))


def _shrunk(x: Any, limit: float, bias: float) -> Any:
    """Return x + bias below -limit, x - bias above limit, else 0."""
    import torch

    zero = torch.zeros_like(x)
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, zero))


@register
class Hardmax(AcrossAxis):
    """1 at the first largest element of an axis, 0 elsewhere."""

    op_type, versions = "Hardmax", (13,)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Mark the place of the largest element."""
        return scope.call(_hardmax, scope.tensor(node.inputs[0]), integer(node, "axis", -1))


@register
class OldHardmax(FlattenedSoftmax):
    """Hardmax before opset 13: over all axes from `axis` on, taken as one."""

    op_type, versions = "Hardmax", (1, 11)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Mark the place of the largest element of the flattened axes."""
        x = node.inputs[0]
        assert x is not None
        axis = normal_axis(integer(node, "axis", 1), scope.rank(x))
        return scope.call(_flattened_hardmax, scope.tensor(x), axis)


def _hardmax(x: Any, axis: int) -> Any:
    """Return 1 at the first largest element along the axis."""
    import torch

    place = torch.argmax(x, dim=axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, place, 1.0)


def _flattened_hardmax(x: Any, axis: int) -> Any:
    """Return 1 at the first largest element over the axes from `axis` on."""
    return _hardmax(x.flatten(axis), axis).view_as(x)
