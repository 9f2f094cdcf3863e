"""Elements put back at places: what a pooling took, columns of windows, rows of a cache; and what occurs at all."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, integers, text
from onnxadmm.ops._base import (
    BuildScope,
    Operator,
    describe,
    normal_axis,
    optional_input,
    register,
)
from onnxadmm.ops.sizes import known
from onnxadmm.ops.windows import Window, read_window


class Placing(Operator):
    """An operator that counts places over several axes."""

    fixes = " counts the places of these channels"


@register
class MaxUnpool(Placing):
    """The values of a pooling at the places [N, C, E1..En] in the flattened result; zeros elsewhere."""

    op_type = "MaxUnpool"
    versions = (9, 11, 22)
    attributes = frozenset({"kernel_shape", "pads", "strides"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's scatter."""
        kernel = integers(node, "kernel_shape", ())
        strides = integers(node, "strides", [1] * len(kernel))
        pads = integers(node, "pads", [0] * 2 * len(kernel))
        inner = list(zip(kernel, strides, pads, pads[len(kernel) :], strict=False))
        shape = optional_input(node, 2)
        held = None if shape is None else known(shape, scope)
        target = scope.tensor(shape) if held is None else [int(n) for n in held]
        x, places = (scope.tensor(v) for v in node.inputs[:2])
        return scope.call(unpool, x, places, inner, target)


def unpool(x: Any, places: Any, windows: list[tuple[int, ...]], shape: Any) -> Any:
    """Lay out `x` at places that count in the result, as ONNX Runtime counts them.

    Args:
        x: [N, C, E1..En].
        places: Like x.
        windows: Size, stride, pads before and behind of each spatial axis.
        shape: Of the result, a list or a tensor, or None: the smallest that windows of these strides cover.
    """
    import torch

    if shape is None:
        inner = [
            (n - 1) * stride + size - before - after
            for n, (size, stride, before, after) in zip(x.shape[2:], windows, strict=True)
        ]
        shape = [*x.shape[:2], *inner]
    sizes = shape.tolist() if isinstance(shape, torch.Tensor) else shape
    empty = x.new_zeros(math.prod(sizes))
    return empty.scatter(0, places.reshape(-1), x.reshape(-1)).reshape(sizes)


@register
class Col2Im(Placing):
    """Windows [N, C · k1..kn, windows] added up where they lie in a picture [N, C, D1..Dn]."""

    op_type = "Col2Im"
    versions = (18,)
    attributes = frozenset({"dilations", "pads", "strides"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's transposed convolution.

        Raises:
            UnsupportedError: More than three axes.
        """
        block = node.inputs[2]
        assert block is not None
        n = scope.shape(block)[0]
        if n > 3:  # noqa: PLR2004  (torch's transposed convolutions end there)
            raise UnsupportedError(
                f"{describe(node)}: windows over {n} axes can't be trained yet; compress without training"
            )
        sizes = []
        for value in node.inputs[1:3]:
            held = known(value, scope)
            sizes.append(scope.tensor(value) if held is None else [int(k) for k in held])
        window = read_window(node, (1,) * n, (1,) * n)
        return scope.call(lay_windows, scope.tensor(node.inputs[0]), *sizes, window)


def lay_windows(x: Any, picture: Any, block: Any, window: Window) -> Any:
    """Add windows up: a transposed convolution whose kernel puts each of its channels at one place.

    Args:
        x: [N, C · elements of a window, windows].
        picture: The spatial shape of the result, a list or a tensor.
        block: That of a window.
        window: Strides and dilations; the pads lie around the picture.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812

    picture, kernel_shape = (
        s.tolist() if isinstance(s, torch.Tensor) else s for s in (picture, block)
    )
    window = window._replace(kernel=tuple(kernel_shape))
    n, size, strides = len(window.kernel), math.prod(window.kernel), window.strides
    before, after = window.before, window.after
    full = [p + a + b for p, a, b in zip(picture, before, after, strict=True)]
    counts = [(f - s) // t + 1 for f, s, t in zip(full, window.spread, strides, strict=True)]
    channels = x.shape[1] // size
    kernel = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *window.kernel)
    function: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[n - 1]
    laid = function(x.reshape(-1, size, *counts), kernel, stride=strides, dilation=window.dilations)
    # What no window reaches behind the last one is zero; the pads go.
    rest = [whole - there for whole, there in zip(full, laid.shape[2:], strict=True)]
    borders = [b for i in reversed(range(n)) for b in (-before[i], rest[i] - after[i])]
    return F.pad(laid, borders).reshape(-1, channels, *picture)


@register
class TensorScatter(Placing):
    """A cache with rows replaced from a place on that each sample has."""

    op_type = "TensorScatter"
    versions = (24,)
    attributes = frozenset({"axis", "mode"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's scatter."""
        return scope.call(
            write_rows,
            *(scope.tensor(optional_input(node, port)) for port in (0, 1, 2)),
            integer(node, "axis", -2),
            text(node, "mode", "linear") == "circular",
        )


def write_rows(cache: Any, rows: Any, starts: Any, axis: int, circular: bool) -> Any:
    """Return the cache with the rows written.

    Args:
        cache: [N, ..., slots, ...].
        rows: Like the cache, but for fewer slots.
        starts: [N], the slot of the first row; None is 0.
        axis: Where the slots are.
        circular: Whether what goes beyond the last slot goes on at the first.
    """
    import torch

    axis = axis % cache.dim()
    steps = [1] * cache.dim()
    steps[axis] = -1
    places = torch.arange(rows.shape[axis], device=cache.device).reshape(steps)
    if starts is not None:
        places = places + starts.reshape(-1, *[1] * (cache.dim() - 1))
    if circular:
        places = places % cache.shape[axis]
    return cache.scatter(axis, places.expand_as(rows), rows)


@register
class Unique(Placing):
    """The different elements or slices, where each is first, which one each is, and how often it occurs."""

    op_type = "Unique"
    versions = (11, 28)
    attributes = frozenset({"axis", "sorted"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's unique."""
        import operator

        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else None
        ordered = bool(integer(node, "sorted", 1))
        found = scope.call(find_unique, scope.tensor(node.inputs[0]), axis, ordered)
        return tuple(scope.call(operator.getitem, found, k) for k in range(4))


def find_unique(x: Any, axis: int | None, ordered: bool) -> tuple[Any, Any, Any, Any]:
    """Return the different slices, their first places, the slice at each place, and the counts.

    Args:
        x: The data; flattened where no axis is given.
        axis: Of the slices.
        ordered: Whether they are sorted, rather than in the order in which they occur.
    """
    import torch

    data = x.reshape(-1) if axis is None else x
    along = normal_axis(0 if axis is None else axis, data.dim())
    _, inverse, counts = torch.unique(data, return_inverse=True, return_counts=True, dim=along)
    every = torch.arange(len(inverse), device=x.device)
    first = torch.full_like(counts, len(inverse)).scatter_reduce(0, inverse, every, "amin")
    if not ordered:
        order = first.argsort()
        first, counts, inverse = first[order], counts[order], order.argsort()[inverse]
    # Taken from the data itself, the slices keep its gradient.
    return data.index_select(along, first), first, inverse, counts
