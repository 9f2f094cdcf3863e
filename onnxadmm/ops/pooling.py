"""Poolings: channels pass through, spatial axes shrink."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, integers
from onnxadmm.ops._base import (
    BuildScope,
    LabelScope,
    Operator,
    describe,
    register,
    unlabelled,
)
from onnxadmm.ops.windows import read_window


class Pooling(Operator):
    """x [N, C, D1..Dn] to [N, C, E1..En]."""

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Hand the channels on."""
        assert node.inputs[0] is not None
        x_axes = scope.axes(node.inputs[0])
        for spatial in x_axes[2:]:
            scope.fix(spatial, f"a position under the window of {describe(node)}")
        for output in node.outputs:
            shape = scope.shape(output)
            scope.assign(output, [x_axes[0], x_axes[1], *(unlabelled(n) for n in shape[2:])])


@register
class MaxPool(Pooling):
    """The largest value in each window; pads never win."""

    op_type = "MaxPool"
    versions = (1, 8, 10, 11, 12, 22)
    attributes = frozenset(
        {
            "auto_pad",
            "ceil_mode",
            "dilations",
            "kernel_shape",
            "pads",
            "strides",
            "storage_order",
        }
    )

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's max_pool; what it can't pad is padded before it with -inf."""
        import torch.nn.functional as F  # noqa: N812

        if len(node.outputs) > 1 and node.outputs[1].uses():
            raise UnsupportedError(
                f"{describe(node)}: the Indices output of MaxPool can't be trained through yet; "
                "compress without training"
            )
        assert node.inputs[0] is not None
        kernel = tuple(integers(node, "kernel_shape", ()))
        function = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}.get(len(kernel))
        if function is None:
            raise UnsupportedError(f"{describe(node)}: no torch pooling over {len(kernel)} axes")
        window = read_window(node, kernel, scope.shape(node.inputs[0])[2:])
        data, padding = scope.tensor(node.inputs[0]), window.before
        if not window.symmetric or any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
            data = scope.call(F.pad, data, window.torch_pads(), value=-math.inf)
            padding = (0,) * len(kernel)
        return scope.call(
            function,
            data,
            kernel,
            stride=window.strides,
            padding=padding,
            dilation=window.dilations,
            ceil_mode=window.ceil,
        )


@register
class AveragePool(Pooling):
    """The mean of each window."""

    op_type = "AveragePool"
    versions = (7, 10, 11, 19, 22)
    attributes = frozenset(
        {
            "auto_pad",
            "ceil_mode",
            "count_include_pad",
            "dilations",
            "kernel_shape",
            "pads",
            "strides",
        }
    )

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's avg_pool.

        Raises:
            UnsupportedError: Dilations, or unusual pads rounded up: torch has neither.
        """
        import torch.nn.functional as F  # noqa: N812

        assert node.inputs[0] is not None
        kernel = tuple(integers(node, "kernel_shape", ()))
        function: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}.get(len(kernel))
        window = read_window(node, kernel, scope.shape(node.inputs[0])[2:])
        counted = bool(integer(node, "count_include_pad", 0))
        data, padding = scope.tensor(node.inputs[0]), window.before
        wide = any(2 * p > k for p, k in zip(padding, kernel, strict=True))
        unusual = wide or not window.symmetric
        if function is None or max(window.dilations) > 1 or (unusual and window.ceil):
            raise UnsupportedError(
                f"{describe(node)}: this kind of average pooling can't be trained yet; compress "
                "without training"
            )
        if unusual and not counted:
            return scope.call(_inner_mean, data, window.torch_pads(), kernel, window.strides)
        if unusual:
            data = scope.call(F.pad, data, window.torch_pads())
            padding = (0,) * len(kernel)
        return scope.call(
            function,
            data,
            kernel,
            stride=window.strides,
            padding=padding,
            ceil_mode=window.ceil,
            count_include_pad=counted,
        )


def _inner_mean(x: Any, pads: list[int], kernel: Any, strides: Any) -> Any:
    """Return the mean of what each window holds of `x`; pads don't count."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    function: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(kernel)]
    share = function(F.pad(torch.ones_like(x[:1, :1]), pads), kernel, strides)
    return function(F.pad(x, pads), kernel, strides) / share


class GlobalPooling(Pooling):
    """Over all spatial axes, which stay with size 1."""

    versions = (1, 22)
    function: ClassVar[str]

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Hand the channels on; positions may be channels of another layout, and are renormalised."""
        assert node.inputs[0] is not None
        axes = scope.axes(node.inputs[0])
        for spatial in axes[2:]:
            scope.renormalise(node, spatial, f"{describe(node)} is computed over them")
        scope.assign(node.outputs[0], [*axes[:2], *(unlabelled(1) for _ in axes[2:])])

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call the torch reduction over the spatial axes."""
        import torch

        assert node.inputs[0] is not None
        axes = tuple(range(2, scope.rank(node.inputs[0])))
        x = scope.tensor(node.inputs[0])
        return scope.call(getattr(torch, self.function), x, dim=axes, keepdim=True)


@register
class GlobalAveragePool(GlobalPooling):
    """The mean over all positions."""

    op_type, function = "GlobalAveragePool", "mean"


@register
class GlobalMaxPool(GlobalPooling):
    """The largest value over all positions."""

    op_type, function = "GlobalMaxPool", "amax"
