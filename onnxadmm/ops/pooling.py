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
from onnxadmm.ops.windows import Window, pad_same, read_window


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
        import operator

        import torch.nn.functional as F  # noqa: N812

        assert node.inputs[0] is not None
        kernel = tuple(integers(node, "kernel_shape", ()))
        function = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}.get(len(kernel))
        if function is None:
            raise UnsupportedError(f"{describe(node)}: no torch pooling over {len(kernel)} axes")
        window = read_window(node, kernel, scope.shape(node.inputs[0])[2:])
        data, padding = scope.tensor(node.inputs[0]), window.before
        if len(node.outputs) > 1:
            columns = bool(integer(node, "storage_order", 0))
            found = scope.call(pool_places, data, window, columns)
            return tuple(scope.call(operator.getitem, found, k) for k in (0, 1))
        if window.same:
            data, padding = scope.call(pad_same, data, window, -math.inf), (0,) * len(kernel)
        elif not window.symmetric or any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
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
        """Call torch's avg_pool; what it hasn't (dilations, wide pads rounded up) is summed window by window."""
        import torch.nn.functional as F  # noqa: N812

        assert node.inputs[0] is not None
        kernel = tuple(integers(node, "kernel_shape", ()))
        function: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}.get(len(kernel))
        window = read_window(node, kernel, scope.shape(node.inputs[0])[2:])
        counted = bool(integer(node, "count_include_pad", 0))
        data, padding = scope.tensor(node.inputs[0]), window.before
        wide = any(2 * p > k for p, k in zip(padding, kernel, strict=True))
        unusual = wide or not window.symmetric
        if (
            function is None
            or max(window.dilations) > 1
            or (unusual and window.ceil)
            or window.same
        ):
            return scope.call(pool_means, data, window, counted)
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


def pool_means(x: Any, window: Window, counted: bool) -> Any:
    """Return the mean of each window of `x` [N, C, D1..Dn], over its pads too where they are counted.

    What lies beyond the pads, where sizes are rounded up, never counts.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812

    window = window.at(x.shape[2:])
    counts = torch.ones_like(x[:1, :1])
    sums = windows_of(x, window, 0.0).sum(-1)
    if counted:
        counts = F.pad(counts, window.torch_pads(), value=1.0)
        n = len(window.kernel)
        window = window._replace(before=(0,) * n, after=(0,) * n)
    return sums / windows_of(counts, window, 0.0).sum(-1)


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


@register
class LpPool(Pooling):
    """The p-norm of each window; pads count as zeros."""

    op_type = "LpPool"
    versions = (2, 11, 18, 22)
    attributes = frozenset(
        {"auto_pad", "ceil_mode", "dilations", "kernel_shape", "p", "pads", "strides"}
    )

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Sum the powers of the windows that torch's unfold lays out, and take the root."""
        x = node.inputs[0]
        assert x is not None
        window = read_window(node, tuple(integers(node, "kernel_shape", ())), scope.shape(x)[2:])
        return scope.call(pool_norms, scope.tensor(x), window, float(integer(node, "p", 2)))


@register
class GlobalLpPool(GlobalPooling):
    """The p-norm over all positions."""

    op_type, versions = "GlobalLpPool", (2, 22)
    attributes = frozenset({"p"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's vector_norm."""
        import torch

        x = node.inputs[0]
        assert x is not None
        return scope.call(
            torch.linalg.vector_norm,
            scope.tensor(x),
            float(integer(node, "p", 2)),
            dim=tuple(range(2, scope.rank(x))),
            keepdim=True,
        )


def pool_places(x: Any, window: Window, columns: bool) -> tuple[Any, Any]:
    """Return the largest value of each window of `x` [N, C, D1..Dn] and its place in the flattened `x`.

    Args:
        x: The data.
        window: Pads, strides and dilations.
        columns: Whether the first spatial axis varies fastest in a place.
    """
    import torch

    spatial = x.shape[2:]
    inner = torch.arange(spatial.numel(), device=x.device)
    places = (
        inner.reshape(spatial[::-1]).permute(*reversed(range(len(spatial)))) if columns else inner
    )
    below = windows_of(places.reshape(1, 1, *spatial), window, 0)
    values, chosen = windows_of(x, window, -math.inf).max(-1)
    found = below.expand(*x.shape[:2], *below.shape[2:]).gather(-1, chosen.unsqueeze(-1))[..., 0]
    samples = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(x.shape[:2])
    offsets = samples.reshape(*x.shape[:2], *[1] * len(spatial)) * spatial.numel()
    return values, found + offsets


def pool_norms(x: Any, window: Window, p: float) -> Any:
    """Return the p-norm of each window of `x` [N, C, D1..Dn]."""
    import torch

    rows = windows_of(x, window, 0.0)
    return torch.linalg.vector_norm(rows, p, dim=-1)


def windows_of(x: Any, window: Window, fill: float) -> Any:
    """Return the elements under each window, [N, C, E1..En, elements of a window].

    Args:
        x: [N, C, D1..Dn].
        window: Pads, strides and dilations; with `ceil` the last window of an axis may reach beyond its pads,
            but must start within the data or the pads before it.
        fill: What stands in the pads.
    """
    import torch.nn.functional as F  # noqa: N812

    n = len(window.kernel)
    window = window.at(x.shape[2:])
    ends = list(window.after)
    for i, size in enumerate(x.shape[2:]):
        spread = window.spread[i]
        room = size + window.before[i] + window.after[i] - spread
        count = -(-room // window.strides[i]) if window.ceil else room // window.strides[i]
        if window.ceil and count * window.strides[i] >= size + window.before[i]:
            count -= 1
        ends[i] = count * window.strides[i] + spread - size - window.before[i]
    pads = [p for pair in zip(window.before[::-1], ends[::-1], strict=True) for p in pair]
    x = F.pad(x, pads, value=fill)
    for i in range(n):
        spread = window.spread[i]
        x = x.unfold(2 + i, spread, window.strides[i])[..., :: window.dilations[i]]
    return x.flatten(-n) if n > 1 else x
