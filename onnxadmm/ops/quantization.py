"""Quantizing and dequantizing: trained through as if rounding had the gradient of the identity.

In the torch graph a quantized tensor holds its integers as floats. Its only readers with a builder are
DequantizeLinear and operators that move data. See "Estimating or Propagating Gradients Through Stochastic
Neurons" (Bengio et al., 2013) for the straight-through gradient.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import constant_of
from onnxadmm.ops._attributes import integer
from onnxadmm.ops._base import (
    BuildScope,
    CutScope,
    LabelScope,
    Operator,
    describe,
    fix_all,
    normal_axis,
    optional_input,
    register,
)
from onnxadmm.ops.casting import to_float8
from onnxadmm.ops.element_types import FLOAT8, torch_type

LEVELS = {
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT16: (0, 65535),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT2: (-2, 1),
    ir.DataType.UINT2: (0, 3),
}
_ZERO_POINT = 2


class Linear(Operator):
    """x and q = x / scale + zero point, by tensor, or by index of one axis."""

    versions = (10, 13, 19, 21, 23, 24, 25, 28)
    attributes = frozenset({"axis", "block_size", "output_dtype", "saturate"})
    statistics_ports = (1,)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Hand the labels on; a scale for each channel goes with its channel."""
        x, scale = node.inputs[0], node.inputs[1]
        assert x is not None
        assert scale is not None
        axes, scales = scope.axes(x), scope.axes(scale)
        if len(scales) > 1 or integer(node, "block_size", 0):
            fix_all(node, scope, f"{describe(node)}: blocks of channels share a scale")
            return
        if scales and len(scales[0]) > 1:
            channels = axes[normal_axis(integer(node, "axis", 1), len(axes))]
            reason = f"meets {describe(node)}"
            if scope.constant(x) is not None:
                reason = f"{describe(node)}: weights that are integers already can't be cut yet"
            scope.unite(channels, scales[0], reason)
            zero = optional_input(node, _ZERO_POINT)
            # Zero points are integers, which carry no labels: only constants are cut (see resize).
            if zero is not None and constant_of(zero) is None:
                scope.fix(channels, f"{describe(node)}: zero points are computed at run time")
        scope.assign(node.outputs[0], axes)

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Cut the zero points like their scales."""
        scale, zero = node.inputs[1], optional_input(node, _ZERO_POINT)
        assert scale is not None
        content = scope.constant(zero)
        vectors = content is not None and content.ndim == 1 and len(scope.shape(scale)) == 1
        if content is not None and vectors and scope.is_cut(scale, 0):
            scope.replace_constant(node, _ZERO_POINT, content[scope.alive(scale, 0)])

    def _refuse(self, node: ir.Node, kind: ir.DataType | None, known: set[ir.DataType]) -> None:
        """Refuse element types without plain levels."""
        if kind not in known:
            raise UnsupportedError(
                f"{describe(node)}: element type {kind.name if kind is not None else 'unknown'} can't be "
                "trained yet; compress without training"
            )


@register
class QuantizeLinear(Linear):
    """The nearest level: clip(round(x / scale) + zero point)."""

    op_type = "QuantizeLinear"
    weight_ports = (0,)
    straight_through = True

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call the rounding of this file."""
        zero = optional_input(node, _ZERO_POINT)
        named = integer(node, "output_dtype", 0)
        kind = ir.DataType(named) if named else ir.DataType.UINT8
        if zero is not None:
            kind = zero.dtype or node.outputs[0].dtype or kind
        self._refuse(node, kind, {*LEVELS, *FLOAT8})
        x, scale, shift = (scope.tensor(v) for v in (node.inputs[0], node.inputs[1], zero))
        axis, block = integer(node, "axis", 1), integer(node, "block_size", 0)
        if kind in FLOAT8:
            saturate = bool(integer(node, "saturate", 1))
            return scope.call(
                quantize_to_float8, x, scale, axis, torch_type(kind), saturate, block=block
            )
        return scope.call(quantize, x, scale, shift, axis, LEVELS[kind], block=block)


@register
class DequantizeLinear(Linear):
    """(q - zero point) · scale."""

    op_type = "DequantizeLinear"

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call the product of this file."""
        x, zero = node.inputs[0], optional_input(node, _ZERO_POINT)
        assert x is not None
        kind = x.dtype or (ir.DataType.UINT8 if zero is None else zero.dtype or scope.kind(x))
        self._refuse(node, kind, {*LEVELS, *FLOAT8, ir.DataType.INT32})
        data, scale, shift = (scope.tensor(v) for v in (x, node.inputs[1], zero))
        axis, block = integer(node, "axis", 1), integer(node, "block_size", 0)
        return scope.call(dequantize, data, scale, shift, axis, block=block)


def quantize(
    x: Any, scale: Any, zero: Any, axis: int, bounds: tuple[int, int], *, block: int = 0
) -> Any:
    """Return the levels of `x` as floats, with the gradient of x / scale."""
    import torch

    exact = x / _along(scale, x, axis, block)
    shift = 0.0 if zero is None else _along(zero.to(exact.dtype), x, axis, block)
    levels = torch.clamp(torch.round(exact) + shift, *bounds)
    return straight_through(levels, exact)


def quantize_to_float8(
    x: Any, scale: Any, axis: int, kind: Any, saturate: bool, *, block: int = 0
) -> Any:
    """Return the numbers of a type of 8 bits next to x / scale, as floats, with the gradient of x / scale.

    The standard allows no zero point but 0 with these types.
    """
    exact = x / _along(scale, x, axis, block)
    return straight_through(to_float8(exact, kind, saturate).to(exact.dtype), exact)


def straight_through(levels: Any, exact: Any) -> Any:
    """Return the levels with the gradient of what they were rounded from."""
    # The difference is zero, and brings the gradient: the levels stay exact.
    return levels.detach() + (exact - exact.detach())


def dequantize(q: Any, scale: Any, zero: Any, axis: int, *, block: int = 0) -> Any:
    """Return the values of levels."""
    levels = q.to(scale.dtype)
    if zero is not None:
        levels = levels - _along(zero.to(scale.dtype), q, axis, block)
    return levels * _along(scale, q, axis, block)


def _along(parameter: Any, x: Any, axis: int, block: int) -> Any:
    """Lay a vector, or one element for each block, along an axis of `x`; a single number meets all of it."""
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    if parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.reshape(shape)


@register
class DynamicQuantizeLinear(Operator):
    """uint8 levels over the range of the values that are there, with their scale and zero point."""

    op_type = "DynamicQuantizeLinear"
    versions = (11,)
    straight_through = True
    # The range may come from any channel.
    fixes = " takes its range from all of these channels"

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call the rounding of this file."""
        import operator

        result = scope.call(quantize_range, scope.tensor(node.inputs[0]))
        return tuple(scope.call(operator.getitem, result, i) for i in range(len(node.outputs)))


def quantize_range(x: Any) -> tuple[Any, Any, Any]:
    """Return levels, scale and zero point; the range always holds 0."""
    import torch

    low, high = (v.detach().clamp(*c) for v, c in ((x.min(), (None, 0)), (x.max(), (0, None))))
    scale = torch.where(high > low, (high - low) / 255, torch.ones_like(low))
    zero = torch.clamp(torch.round(-low / scale), 0, 255)
    return quantize(x, scale, zero, 0, (0, 255)), scale, zero
