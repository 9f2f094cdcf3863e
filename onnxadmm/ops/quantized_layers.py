"""ONNX Runtime's own layers on quantized tensors beside products: each dequantizes, computes and quantizes."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxadmm.ops._attributes import integer, integers, number
from onnxadmm.ops._base import BuildScope, optional_input, register
from onnxadmm.ops.fused import MICROSOFT
from onnxadmm.ops.integer_products import OfIntegers, OnLevels, multiply, to_levels
from onnxadmm.ops.pooling import pool_means
from onnxadmm.ops.quantization import dequantize, quantize, straight_through
from onnxadmm.ops.windows import Window, read_window


@register
class QLinearConcat(OfIntegers):
    """Quantized tensors beside each other, brought to one scale and zero point."""

    domain, op_type, versions = MICROSOFT, "QLinearConcat", (1,)
    attributes = frozenset({"axis"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Dequantize, concatenate, quantize."""
        import torch

        scale, zero, *parts = self._inputs(node, scope, len(node.inputs))
        values = [scope.call(dequantize, *parts[k : k + 3], 0) for k in range(0, len(parts), 3)]
        joined = scope.call(torch.cat, values, integer(node, "axis", 0))
        bounds = self._bounds(node.inputs[1], scope)
        return scope.call(quantize, joined, scale, zero, 0, bounds)


@register
class QLinearAveragePool(OfIntegers):
    """The mean of each window, of channels at axis 1 or at the end."""

    domain, op_type, versions = MICROSOFT, "QLinearAveragePool", (1,)
    attributes = frozenset(
        {
            *("auto_pad", "ceil_mode", "channels_last", "count_include_pad", "kernel_shape"),
            *("pads", "strides"),
        }
    )

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Dequantize, take the means window by window, and round them as ONNX Runtime does here."""
        x = node.inputs[0]
        assert x is not None
        last = bool(integer(node, "channels_last", 0))
        shape = scope.shape(x)
        spatial = shape[1:-1] if last else shape[2:]
        window = read_window(node, tuple(integers(node, "kernel_shape", ())), spatial)
        counted = bool(integer(node, "count_include_pad", 0))
        bounds = self._bounds(optional_input(node, 4), scope)
        inputs = self._inputs(node, scope, 5)
        return scope.call(pool_levels, inputs, window, counted, last, bounds)


def pool_levels(
    inputs: list[Any], window: Window, counted: bool, last: bool, bounds: tuple[int, int]
) -> Any:
    """Return the levels of the mean of each window, rounded with the zero point added.

    Args:
        inputs: Levels [N, C, D1..Dn] or [N, D1..Dn, C], scale and zero point; scale and zero point of the result.
        window: The window.
        counted: Whether pads count.
        last: Whether channels are the last axis.
        bounds: The smallest and the largest level.
    """
    x, x_scale, x_zero, scale, zero = inputs
    x = dequantize(x, x_scale, x_zero, 0)
    found = pool_means(x.movedim(-1, 1) if last else x, window, counted)
    exact = (found.movedim(1, -1) if last else found) / scale
    shifted = exact if zero is None else exact + zero.to(exact.dtype)
    return straight_through(shifted.round().clamp(*bounds), exact)


@register
class QLinearSoftmax(OnLevels):
    """Softmax over an axis, or over all axes from it on, as the opset that it names has it."""

    op_type = "QLinearSoftmax"
    attributes = frozenset({"axis", "opset"})

    def compute(self, node: ir.Node, scope: BuildScope, *values: Any) -> Any:
        """Call torch's softmax."""
        from_axis = integer(node, "opset", 13) < 13  # noqa: PLR2004  (where it became one axis)
        return scope.call(share_levels, *values, integer(node, "axis", -1), from_axis)


def share_levels(x: Any, axis: int, from_axis: bool) -> Any:
    """Return the softmax of `x` over an axis, or over all from it on."""
    import torch

    if not from_axis:
        return torch.softmax(x, axis)
    return torch.softmax(x.flatten(axis), -1).reshape(x.shape)


@register
class QGemm(OfIntegers):
    """alpha · (A B) + C of levels: floats where no scale of the result is given, else its levels."""

    domain, op_type, versions = MICROSOFT, "QGemm", (1,)
    attributes = frozenset({"alpha", "transA", "transB"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Multiply in float64, and round where levels are asked for."""
        inputs = self._inputs(node, scope, 9)
        turned = bool(integer(node, "transA", 0)), bool(integer(node, "transB", 0))
        bounds = None
        if optional_input(node, 7) is not None:
            bounds = self._bounds(optional_input(node, 8), scope)
        return scope.call(multiply_turned, inputs, turned, number(node, "alpha", 1.0), bounds)


def multiply_turned(
    inputs: list[Any], turned: tuple[bool, bool], alpha: float, bounds: tuple[int, int] | None
) -> Any:
    """Return the product as floats, or its levels within bounds; the inputs are those of QGemm."""
    a, a_scale, a_zero, b, b_scale, b_zero, c, scale, zero = inputs
    a, b = (t.T if there else t for t, there in zip((a, b), turned, strict=True))
    total = multiply(a, b, a_zero, b_zero)
    total = total if c is None else total + c
    factor = alpha * a_scale * b_scale
    if bounds is None:
        return total.to(factor.dtype) * factor
    return to_levels(total, factor / scale, zero, bounds)
