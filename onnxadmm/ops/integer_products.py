"""Products of integers, and what ONNX Runtime computes on quantized tensors: trained through as if nothing was rounded.

As in `onnxadmm.ops.quantization` a quantized tensor holds its integers as floats in the torch graph. Sums are taken
in float64, which holds every int32 exactly. Weights are integers already: they stay as they are.
"""

from __future__ import annotations

import operator
from typing import Any, ClassVar

import onnx_ir as ir

from onnxadmm.ops._attributes import integer, number
from onnxadmm.ops._base import (
    BuildScope,
    LabelScope,
    Operator,
    describe,
    fix_all,
    optional_input,
    register,
)
from onnxadmm.ops.fused import MICROSOFT
from onnxadmm.ops.quantization import (
    LEVELS,
    dequantize,
    quantize,
    quantize_range,
    straight_through,
)
from onnxadmm.ops.windows import Window, pad_same, read_window


class OfIntegers(Operator):
    """An operator on quantized tensors, each with a scale and a zero point."""

    straight_through = True

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Fix everything."""
        fix_all(
            node, scope, f"{describe(node)}: weights that are integers already can't be cut yet"
        )

    def _inputs(self, node: ir.Node, scope: BuildScope, count: int) -> list[Any]:
        return [scope.tensor(optional_input(node, port)) for port in range(count)]

    def _bounds(self, zero: ir.Value | None, scope: BuildScope) -> tuple[int, int]:
        """Return the smallest and the largest level of a zero point's type; without one it is uint8."""
        return LEVELS[ir.DataType.UINT8 if zero is None else scope.kind(zero)]


def _shifted(levels: Any, zero: Any, axis: int | None = None) -> Any:
    """Return levels minus their zero point in float64; a vector lies along an axis, or where it broadcasts."""
    import torch

    wide = levels.to(torch.float64)
    if zero is None:
        return wide
    zero = zero.to(torch.float64)
    if zero.numel() == 1:
        return wide - zero.reshape(())
    if axis is not None and zero.dim() == 1:
        shape = [1] * wide.dim()
        shape[axis] = -1
        zero = zero.reshape(shape)
    return wide - zero


@register
class MatMulInteger(OfIntegers):
    """(A - zero) (B - zero), zero points by row of A and by column of B."""

    op_type, versions = "MatMulInteger", (10,)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Multiply in float64."""
        return scope.call(multiply, *self._inputs(node, scope, 4))


def multiply(a: Any, b: Any, a_zero: Any, b_zero: Any) -> Any:
    """Return the product of levels without their zero points, in float64."""
    return _shifted(a, a_zero, -2 if a.dim() > 1 else 0) @ _shifted(b, b_zero, -1)


@register
class QLinearMatMul(OfIntegers):
    """MatMulInteger, brought to the levels of the result."""

    op_type, versions = "QLinearMatMul", (10, 21)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Multiply in float64 and round."""
        inputs = self._inputs(node, scope, 8)
        return scope.call(multiply_to_levels, *inputs, self._bounds(node.inputs[7], scope))


def multiply_to_levels(*inputs: Any) -> Any:
    """Return the levels of a product; the inputs are those of QLinearMatMul, then the bounds of the result."""
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero, bounds = inputs
    rows = a_scale.unsqueeze(-1) if a_scale.dim() == 1 and len(a_scale) > 1 else a_scale
    factor = rows * b_scale / scale
    return to_levels(multiply(a, b, a_zero, b_zero), factor, zero, bounds)


def to_levels(total: Any, factor: Any, zero: Any, bounds: tuple[int, int]) -> Any:
    """Return the levels of whole numbers times a factor, rounded in the factor's type as ONNX Runtime rounds them."""
    kind = factor.dtype if factor.element_size() > 2 else total.float().dtype  # noqa: PLR2004  (bytes of float16)
    exact = total.to(kind) * factor.to(kind)
    shift = 0.0 if zero is None else zero.to(kind)
    return straight_through((exact.round() + shift).clamp(*bounds), exact)


@register
class ConvInteger(OfIntegers):
    """The convolution of levels without their zero points."""

    op_type, versions = "ConvInteger", (10,)
    attributes = frozenset({"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Convolve in float64."""
        x, w, x_zero, w_zero = self._inputs(node, scope, 4)
        window, groups = _window(node, 0, 1, scope)
        return scope.call(convolve, x, w, (x_zero, w_zero), window, groups)


def _window(node: ir.Node, x_port: int, weight_port: int, scope: BuildScope) -> tuple[Window, int]:
    x, weight = node.inputs[x_port], node.inputs[weight_port]
    assert x is not None
    assert weight is not None
    window = read_window(node, scope.shape(weight)[2:], scope.shape(x)[2:])
    return window, integer(node, "group", 1)


def convolve(x: Any, weight: Any, zeros: tuple[Any, Any], window: Window, groups: int) -> Any:
    """Return the convolution of levels [N, C, D1..Dn] without their zero points, in float64."""
    import torch.nn.functional as F  # noqa: N812

    function: Any = (F.conv1d, F.conv2d, F.conv3d)[len(window.kernel) - 1]
    data = pad_same(_shifted(x, zeros[0]), window)
    return function(
        data,
        _shifted(weight, zeros[1], 0),
        stride=window.strides,
        dilation=window.dilations,
        groups=groups,
    )


@register
class QLinearConv(OfIntegers):
    """ConvInteger plus a bias of int32, brought to the levels of the result."""

    op_type, versions = "QLinearConv", (10,)
    attributes = ConvInteger.attributes

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Convolve in float64 and round."""
        inputs = self._inputs(node, scope, 9)
        window, groups = _window(node, 0, 3, scope)
        bounds = self._bounds(node.inputs[7], scope)
        return scope.call(convolve_to_levels, inputs, window, groups, bounds)


def convolve_to_levels(
    inputs: list[Any], window: Window, groups: int, bounds: tuple[int, int]
) -> Any:
    """Return the levels of a convolution; the inputs are those of QLinearConv."""
    x, x_scale, x_zero, w, w_scale, w_zero, scale, zero, bias = inputs
    total = convolve(x, w, (x_zero, w_zero), window, groups)
    shape = (-1, *[1] * len(window.kernel))
    if bias is not None:
        total = total + bias.reshape(shape)
    factor = x_scale * w_scale / scale
    return to_levels(total, factor.reshape(shape) if factor.numel() > 1 else factor, zero, bounds)


class OnLevels(OfIntegers):
    """A function of dequantized tensors whose result is quantized; inputs come as levels, scale, zero point."""

    domain, versions = MICROSOFT, (1,)
    operands: ClassVar[int] = 1

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Dequantize, compute, quantize."""
        inputs = self._inputs(node, scope, 3 * self.operands + 2)
        *operands, scale, zero = inputs
        values = [
            scope.call(dequantize, *operands[k : k + 3], 0) for k in range(0, len(operands), 3)
        ]
        bounds = self._bounds(optional_input(node, len(operands) + 1), scope)
        return scope.call(quantize, self.compute(node, scope, *values), scale, zero, 0, bounds)

    def compute(self, node: ir.Node, scope: BuildScope, *values: Any) -> Any:
        """Add the function of the dequantized tensors to the torch graph."""
        raise NotImplementedError


@register
class QLinearAdd(OfIntegers):
    """The sum of two quantized tensors."""

    domain, op_type, versions = MICROSOFT, "QLinearAdd", (1,)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Add levels times the ratios of their scales, as ONNX Runtime does: halves fall as they do there."""
        bounds = self._bounds(optional_input(node, 7), scope)
        return scope.call(add_levels, self._inputs(node, scope, 8), bounds)


def add_levels(inputs: list[Any], bounds: tuple[int, int]) -> Any:
    """Return the levels of a sum; the inputs are those of QLinearAdd."""
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = inputs
    ratios = a_scale / scale, b_scale / scale
    shift = 0.0 if zero is None else zero.to(scale.dtype)
    for ratio, own in zip(ratios, (a_zero, b_zero), strict=True):
        shift = shift if own is None else shift - ratio * own.to(scale.dtype)
    exact = a.to(scale.dtype) * ratios[0] + b.to(scale.dtype) * ratios[1] + shift
    return straight_through(exact.round().clamp(*bounds), exact)


@register
class QLinearMul(OnLevels):
    """The product."""

    op_type, operands = "QLinearMul", 2

    def compute(self, node: ir.Node, scope: BuildScope, *values: Any) -> Any:
        """Call torch's mul."""
        import torch

        del node
        return scope.call(torch.mul, *values)


@register
class QLinearSigmoid(OnLevels):
    """The logistic function."""

    op_type = "QLinearSigmoid"

    def compute(self, node: ir.Node, scope: BuildScope, *values: Any) -> Any:
        """Call torch's sigmoid."""
        import torch

        del node
        return scope.call(torch.sigmoid, *values)


@register
class QLinearLeakyRelu(OnLevels):
    """x where x >= 0, alpha · x elsewhere."""

    op_type = "QLinearLeakyRelu"
    attributes = frozenset({"alpha"})

    def compute(self, node: ir.Node, scope: BuildScope, *values: Any) -> Any:
        """Call torch's leaky_relu."""
        import torch.nn.functional as F  # noqa: N812

        return scope.call(F.leaky_relu, *values, negative_slope=number(node, "alpha", 0.01))


@register
class QLinearGlobalAveragePool(OnLevels):
    """The mean over all positions, of channels at axis 1 or at the end."""

    op_type = "QLinearGlobalAveragePool"
    attributes = frozenset({"channels_last"})

    def compute(self, node: ir.Node, scope: BuildScope, *values: Any) -> Any:
        """Call torch's mean."""
        import torch

        x = node.inputs[0]
        assert x is not None
        first = 1 if integer(node, "channels_last", 0) else 2
        axes = tuple(range(first, first + scope.rank(x) - 2))
        return scope.call(torch.mean, *values, dim=axes, keepdim=True)


class ToFloat(OfIntegers):
    """A product of integers as floats, with an optional bias."""

    domain, versions = MICROSOFT, (1,)
    straight_through = False


@register
class MatMulIntegerToFloat(ToFloat):
    """MatMulInteger times both scales."""

    op_type = "MatMulIntegerToFloat"

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Multiply in float64 and scale."""
        return scope.call(multiply_scaled, *self._inputs(node, scope, 7))


@register
class DynamicQuantizeMatMul(ToFloat):
    """Floats, quantized over the range that is there, times a weight of integers."""

    op_type = "DynamicQuantizeMatMul"

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Quantize, multiply in float64 and scale."""
        x, weight, w_scale, w_zero, bias = self._inputs(node, scope, 5)
        found = scope.call(quantize_range, x)
        levels, scale, zero = (scope.call(operator.getitem, found, k) for k in range(3))
        return scope.call(multiply_scaled, levels, weight, scale, w_scale, zero, w_zero, bias)


def multiply_scaled(*inputs: Any) -> Any:
    """Return a product as floats; the inputs are those of MatMulIntegerToFloat."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias = inputs
    scale = a_scale * b_scale
    result = multiply(a, b, a_zero, b_zero).to(scale.dtype) * scale
    return result if bias is None else result + bias


@register
class MatMulNBits(ToFloat):
    """x [..., K] times a weight [N, blocks, bytes] whose blocks of a row share a scale; the weight isn't trained."""

    op_type = "MatMulNBits"
    attributes = frozenset({"K", "N", "accuracy_level", "bits", "block_size"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Unpack the weight and call torch's linear.

        Raises:
            UnsupportedError: Order of groups, or zero points in floats.
        """
        x, packed, scales, zeros, order, bias = self._inputs(node, scope, 6)
        bits = integer(node, "bits", 4)
        if order is not None or 8 % bits:
            self._refuse(node)
        given = optional_input(node, 3)
        if given is not None and scope.kind(given) is not ir.DataType.UINT8:
            self._refuse(node)
        size = integer(node, "K", 0), integer(node, "block_size", 32)
        weight = scope.call(unpack_blocks, packed, scales, zeros, bits, size)
        import torch.nn.functional as F  # noqa: N812

        return scope.call(F.linear, x, weight, bias)

    def _refuse(self, node: ir.Node) -> None:
        from onnxadmm.errors import UnsupportedError

        raise UnsupportedError(
            f"{describe(node)}: this packing of its weight can't be trained through yet; compress without training"
        )


def unpack_blocks(packed: Any, scales: Any, zeros: Any, bits: int, size: tuple[int, int]) -> Any:
    """Return a weight [N, K] of packed levels.

    Args:
        packed: [N, blocks, bytes], the first level in the lowest bits.
        scales: One a block, row by row.
        zeros: Zero points, packed by row; None is the middle of the levels.
        bits: Of a level: 2, 4 or 8.
        size: K, and the levels of a block; the last block of a row may be longer than the row.
    """
    length, block = size
    rows, blocks = packed.shape[0], -(-length // block)
    levels = _unpacked(packed.reshape(rows, blocks, -1), bits)[..., :block]
    shift: Any = 2 ** (bits - 1)
    if zeros is not None:
        shift = _unpacked(zeros.reshape(rows, -1), bits)[:, :blocks].unsqueeze(-1).to(scales.dtype)
    values = (levels.to(scales.dtype) - shift) * scales.reshape(rows, blocks, 1)
    return values.flatten(1)[:, :length]


def _unpacked(packed: Any, bits: int) -> Any:
    """Return the numbers that the bytes of the last axis hold, the lowest bits first."""
    import torch

    shifts = torch.arange(0, 8, bits, device=packed.device)
    return ((packed.int().unsqueeze(-1) >> shifts) & (2**bits - 1)).flatten(-2)
