"""Functions of one tensor, element by element: channels pass through unchanged."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, number, text
from onnxadmm.ops._base import (
    BuildScope,
    LabelScope,
    Operator,
    describe,
    fix_all,
    is_guarded,
    normal_axis,
    optional_input,
    register,
)
from onnxadmm.ops.elementwise import scalar


class Unary(Operator):
    """One tensor in, one of the same shape out."""

    function: ClassVar[str]

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Hand the labels on."""
        assert node.inputs[0] is not None
        scope.assign(node.outputs[0], scope.axes(node.inputs[0]))

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call the torch function of the same meaning."""
        import torch

        return scope.call(getattr(torch, self.function), scope.tensor(node.inputs[0]))


class NotFiniteAtZero(Unary):
    """A function that turns a removed channel, which is zero in the reference, into no number."""

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Fix all where the reference can't set it to zero: infinity times a weight of zero isn't zero."""
        if is_guarded(node):
            super().labels(node, scope)
        else:
            fix_all(node, scope, f"{describe(node)} is not finite at 0")


def _unary(
    op_type: str,
    versions: tuple[int, ...],
    function: str,
    meaning: str,
    base: type[Unary] = Unary,
) -> None:
    """Register an operator that differs from others by a torch function alone."""
    members = {"op_type": op_type, "versions": versions, "function": function, "__doc__": meaning}
    register(type(op_type, (base,), members))


_unary("Relu", (6, 13, 14), "relu", "max(x, 0).")
_unary("Sigmoid", (6, 13), "sigmoid", "1 / (1 + exp(-x)).")
_unary("Tanh", (6, 13), "tanh", "The hyperbolic tangent.")
_unary("Sqrt", (6, 13), "sqrt", "The square root.")
_unary("Exp", (6, 13), "exp", "e to the x.")
_unary("Log", (6, 13), "log", "The natural logarithm.", NotFiniteAtZero)
_unary("Abs", (6, 13), "abs", "The absolute value.")
_unary("Neg", (6, 13), "neg", "-x.")
_unary("Erf", (9, 13), "erf", "The error function.")
_unary("Reciprocal", (6, 13), "reciprocal", "1 / x.", NotFiniteAtZero)


@register
class LeakyRelu(Unary):
    """x where x >= 0, alpha · x elsewhere."""

    op_type = "LeakyRelu"
    versions = (6, 16)
    attributes = frozenset({"alpha"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's leaky_relu."""
        import torch.nn.functional as F  # noqa: N812

        slope = number(node, "alpha", 0.01)
        return scope.call(F.leaky_relu, scope.tensor(node.inputs[0]), negative_slope=slope)


@register
class Elu(Unary):
    """x where x >= 0, alpha · (exp(x) - 1) elsewhere."""

    op_type = "Elu"
    versions = (6, 22)
    attributes = frozenset({"alpha"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's elu."""
        import torch.nn.functional as F  # noqa: N812

        return scope.call(F.elu, scope.tensor(node.inputs[0]), alpha=number(node, "alpha", 1.0))


@register
class HardSigmoid(Unary):
    """clip(alpha · x + beta, 0, 1)."""

    op_type = "HardSigmoid"
    versions = (6, 22)
    attributes = frozenset({"alpha", "beta"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's hardsigmoid where its constants are asked for, else compose it."""
        import torch
        import torch.nn.functional as F  # noqa: N812

        x, alpha, beta = (
            scope.tensor(node.inputs[0]),
            number(node, "alpha", 0.2),
            number(node, "beta", 0.5),
        )
        if np.float32(alpha) == np.float32(1 / 6) and beta == 0.5:  # noqa: PLR2004
            return scope.call(F.hardsigmoid, x)
        moved = scope.call(torch.add, scope.call(torch.mul, x, alpha), beta)
        return scope.call(F.hardtanh, moved, 0.0, 1.0)


@register
class HardSwish(Unary):
    """x · clip(x / 6 + 0.5, 0, 1)."""

    op_type = "HardSwish"
    versions = (14, 22)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's hardswish."""
        import torch.nn.functional as F  # noqa: N812

        return scope.call(F.hardswish, scope.tensor(node.inputs[0]))


@register
class Gelu(Unary):
    """x · Φ(x), exact or by tanh."""

    op_type = "Gelu"
    versions = (20,)
    attributes = frozenset({"approximate"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's gelu."""
        import torch.nn.functional as F  # noqa: N812

        kind = text(node, "approximate", "none")
        return scope.call(F.gelu, scope.tensor(node.inputs[0]), approximate=kind)


@register
class Clip(Unary):
    """min(max(x, low), high)."""

    op_type = "Clip"
    versions = (6, 11, 12, 13)
    attributes = frozenset({"min", "max"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's hardtanh with Python numbers for both bounds, or its clamp.

        They compute the same. The gradient of clamp is composed of four kernels and takes four times as long; at a
        bound it is 1, and that of hardtanh, which exporters write as Clip (ReLU6), is 0.
        """
        import torch
        import torch.nn.functional as F  # noqa: N812

        bounds: list[float | None] = []
        for port, name in ((1, "min"), (2, "max")):
            attribute = node.attributes.get(name)
            value = node.inputs[port] if len(node.inputs) > port else None
            if attribute is not None:
                bounds.append(attribute.as_float())
                continue
            bound = scalar(scope.constant(value))
            if value is not None and bound is None:
                rest = [scope.tensor(v) for v in node.inputs[1:]]
                return scope.call(_clipped, scope.tensor(node.inputs[0]), *rest)
            bounds.append(bound)
        x, (low, high) = scope.tensor(node.inputs[0]), bounds
        if low is None and high is None:
            return x
        assert node.inputs[0] is not None
        ordered = low is not None and high is not None and low <= high
        if ordered and scope.kind(node.inputs[0]).is_floating_point():
            return scope.call(F.hardtanh, x, low, high)
        return scope.call(torch.clamp, x, low, high)


def _clipped(x: Any, low: Any, high: Any = None) -> Any:
    """Clamp `x` by bounds that are tensors [] or absent; where they cross, the upper one holds."""
    import torch

    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


class Passing(Unary):
    """An operator that hands its input on."""

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Return the input itself."""
        return scope.tensor(node.inputs[0])


@register
class Identity(Passing):
    """The input."""

    op_type = "Identity"
    versions = (1, 13, 14, 16, 19, 21, 23, 24, 25)


@register
class Dropout(Passing):
    """The input: a compressed model is trained as it is run, without dropout."""

    op_type = "Dropout"
    versions = (7, 10, 12, 13, 22)
    attributes = frozenset({"ratio", "seed"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Hand the labels on to the output and the mask."""
        assert node.inputs[0] is not None
        for output in node.outputs:
            scope.assign(output, scope.axes(node.inputs[0]))

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Return the input itself.

        Raises:
            UnsupportedError: The graph reads the mask, or asks for training mode.
        """
        given = optional_input(node, 2)
        mode = scope.constant(given)
        mask_read = any(v.uses() or v.is_graph_output() for v in node.outputs[1:])
        if (given is not None and (mode is None or bool(np.any(mode)))) or mask_read:
            raise UnsupportedError(
                f"{describe(node)}: a Dropout that is active at inference can't be trained; export the "
                "model in inference mode"
            )
        return scope.tensor(node.inputs[0])


class AcrossAxis(Operator):
    """A function whose every output depends on all of one axis: its channels are fixed."""

    attributes = frozenset({"axis"})
    function: ClassVar[str]

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Fix the axis; hand the others on."""
        x = node.inputs[0]
        assert x is not None
        axes = list(scope.axes(x))
        axis = normal_axis(integer(node, "axis", -1), len(axes))
        scope.fix(axes[axis], f"{describe(node)} is computed over all of these channels")
        scope.assign(node.outputs[0], axes)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call the torch function over the axis."""
        import torch

        function = getattr(torch, self.function)
        return scope.call(function, scope.tensor(node.inputs[0]), dim=integer(node, "axis", -1))


@register
class Softmax(AcrossAxis):
    """exp(x) / sum(exp(x)) over one axis."""

    op_type, versions, function = "Softmax", (13,), "softmax"


@register
class LogSoftmax(AcrossAxis):
    """The logarithm of Softmax."""

    op_type, versions, function = "LogSoftmax", (13,), "log_softmax"


class FlattenedSoftmax(AcrossAxis):
    """Before opset 13: over all axes from `axis` on, taken as one."""

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Fix every axis that is summed over."""
        x = node.inputs[0]
        assert x is not None
        axes = list(scope.axes(x))
        for labels in axes[normal_axis(integer(node, "axis", 1), len(axes)) :]:
            scope.fix(labels, f"{describe(node)} is computed over all of these channels")
        scope.assign(node.outputs[0], axes)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Flatten the trailing axes, apply, and bring the shape back."""
        import torch

        assert node.inputs[0] is not None
        x = scope.tensor(node.inputs[0])
        axis = normal_axis(integer(node, "axis", 1), scope.rank(node.inputs[0]))
        flat = scope.call(torch.flatten, x, axis) if axis < scope.rank(node.inputs[0]) - 1 else x
        result = scope.call(getattr(torch, self.function), flat, dim=axis)
        return result if flat is x else scope.call(torch.Tensor.view_as, result, x)


@register
class OldSoftmax(FlattenedSoftmax):
    """Softmax before opset 13."""

    op_type, versions, function = "Softmax", (1, 11), "softmax"


@register
class OldLogSoftmax(FlattenedSoftmax):
    """LogSoftmax before opset 13."""

    op_type, versions, function = "LogSoftmax", (1, 11), "log_softmax"
