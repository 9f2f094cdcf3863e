"""Parts of a tensor that constants choose: Slice and Gather, whose bounds and indices follow a cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.graph import constant_of
from onnxadmm.ops._attributes import integer, integers
from onnxadmm.ops._base import (
    BuildScope,
    CutScope,
    LabelScope,
    Operator,
    describe,
    normal_axis,
    register,
    unlabelled,
)
from onnxadmm.ops.sizes import (
    known,
    normal_axes,
    settled,
    sliced_indices,
)

_BOUNDS = ("starts", "ends")


@dataclass(slots=True)
class _Bounds:
    """What a Slice takes from each axis; None for what is only known at run time."""

    axes: list[int]
    starts: list[int] | None
    ends: list[int] | None
    steps: list[int] | None

    def of(self, position: int) -> tuple[int, int, int] | None:
        """Return (start, end, step) of the position-th sliced axis."""
        if self.starts is None or self.ends is None or self.steps is None:
            return None
        return self.starts[position], self.ends[position], self.steps[position]


def _read_bounds(node: ir.Node, rank: int, read: Any) -> _Bounds | None:
    """Read a Slice, or return None where its axes are only known at run time.

    Args:
        node: The Slice.
        rank: Of the data.
        read: A function of a value that returns its content where that is known.
    """
    if "starts" in node.attributes:
        starts, ends = (integers(node, name, ()) for name in _BOUNDS)
        axes = integers(node, "axes", range(len(starts)))
        return _Bounds(normal_axes(axes, rank), starts, ends, [1] * len(starts))
    inputs = [node.inputs[k] if k < len(node.inputs) else None for k in range(5)]
    contents = [None if v is None else read(v) for v in inputs]
    numbers = [None if c is None else [int(n) for n in c.reshape(-1)] for c in contents]
    count = next((len(n) for n in numbers[1:] if n is not None), None)
    chosen, steps = numbers[3], numbers[4]
    if inputs[3] is None and count is not None:
        chosen = list(range(count))
    if inputs[4] is None and count is not None:
        steps = [1] * count
    if chosen is None:
        return None
    return _Bounds(normal_axes(chosen, rank), numbers[1], numbers[2], steps)


@register
class Slice(Operator):
    """A range of each axis, with any step."""

    op_type = "Slice"
    versions = (1, 10, 11, 13)
    attributes = frozenset({"axes", "ends", "starts"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Take the same range of the labels; one that can't be written anew after a cut fixes them."""
        x = node.inputs[0]
        assert x is not None
        axes = list(scope.axes(x))
        shape = scope.shape(node.outputs[0])
        # Bounds must be rewritable: what is merely computed without any input isn't.
        bounds = _read_bounds(node, len(axes), lambda v: known(v, scope, scope.settled))
        sliced = range(len(axes)) if bounds is None else bounds.axes
        for position, axis in enumerate(sliced):
            labels = axes[axis]
            bound = None if bounds is None else bounds.of(position)
            if bound is None:
                scope.fix(labels, f"{describe(node)} computes its bounds at run time")
                axes[axis] = unlabelled(shape[axis])
                continue
            chosen = sliced_indices(len(labels), *bound)
            axes[axis] = labels[chosen]
            if abs(bound[2]) != 1:
                scope.fix(
                    labels, f"{describe(node)} takes one of {abs(bound[2])} of these channels"
                )
        scope.assign(node.outputs[0], axes)

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Write new bounds: as many live channels before and in the range as there were."""
        x = node.inputs[0]
        assert x is not None

        bounds = _read_bounds(node, len(scope.shape(x)), lambda v: known(v, scope, scope.settled))
        if bounds is None or bounds.starts is None or bounds.ends is None:
            return
        # Arithmetic on sizes that shrink would come to other bounds.
        computed = "starts" not in node.attributes and any(
            known(node.inputs[port], scope) is None for port in (1, 2)
        )
        starts, ends = list(bounds.starts), list(bounds.ends)
        for position, axis in enumerate(bounds.axes):
            bound = bounds.of(position)
            if bound is None or not scope.is_cut(x, axis):
                continue
            alive = scope.alive(x, axis)
            chosen = sliced_indices(len(alive), *bound)
            places = (np.cumsum(alive) - 1)[chosen[alive[chosen]]]
            if not places.size:
                starts[position], ends[position] = 0, 0
                continue
            starts[position] = int(places[0])
            # Before the first element there is no index: anything far below means all down to it.
            last = int(places[-1]) + bound[2]
            ends[position] = last if last >= 0 else -(1 << 31) + 1
        if (starts, ends) == (bounds.starts, bounds.ends) and not computed:
            return
        if "starts" in node.attributes:
            for name, content in zip(_BOUNDS, (starts, ends), strict=True):
                node.attributes[name] = ir.AttrInt64s(name, content)
            return
        for port, content in ((1, starts), (2, ends)):
            old = constant_of(node.inputs[port])
            kind = np.dtype(np.int64) if old is None else old.dtype
            scope.replace_constant(node, port, np.array(content, kind))

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Narrow each axis; indices serve steps, and what is computed is read as a tensor."""
        x = node.inputs[0]
        assert x is not None
        bounds = _read_bounds(node, scope.rank(x), lambda v: known(v, scope))
        if bounds is None:
            bounds = _Bounds([], None, None, None)
        ports = [node.inputs[k] if k < len(node.inputs) else None for k in range(5)]
        starts, ends, steps = (
            scope.tensor(port) if numbers is None else numbers
            for numbers, port in zip(
                (bounds.starts, bounds.ends, bounds.steps), (*ports[1:3], ports[4]), strict=True
            )
        )
        axes = bounds.axes or scope.tensor(ports[3])
        return scope.call(_sliced, scope.tensor(x), axes, starts, ends, steps)


def _sliced(x: Any, axes: Any, starts: Any, ends: Any, steps: Any) -> Any:
    """Slice `x`; bounds are lists or tensors, axes and steps also None for the first axes and for 1."""
    import torch

    first, last, chosen_axes, strides = (
        # A bound may come out of arithmetic on floats: its values are whole all the same.
        None if b is None else [int(n) for n in (b.tolist() if isinstance(b, torch.Tensor) else b)]
        for b in (starts, ends, axes, steps)
    )
    assert first is not None
    assert last is not None
    where_axes = range(len(first)) if chosen_axes is None else [a % x.dim() for a in chosen_axes]
    strides = [1] * len(first) if strides is None else strides
    for axis, start, end, step in zip(where_axes, first, last, strides, strict=True):
        chosen = range(x.shape[axis])[start:end:step]
        if step > 0:
            where = (slice(None),) * axis + (slice(chosen.start, chosen.stop, step),)
            x = x[where]
        else:
            x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64, device=x.device))
    return x


@register
class Gather(Operator):
    """Indices of one axis: constants choose channels, computed ones look rows of a table up."""

    op_type = "Gather"
    versions = (1, 11, 13)
    attributes = frozenset({"axis"})
    weight_ports = (0,)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Take the labels of constant indices; computed ones fix the axis, which is a vocabulary."""
        data, indices = node.inputs[0], node.inputs[1]
        assert data is not None
        assert indices is not None
        axes = scope.axes(data)
        axis = normal_axis(integer(node, "axis", 0), len(axes))
        labels, content = axes[axis], settled(indices, scope)
        picked = scope.axes(indices)
        if labels.any():
            if content is None:
                scope.fix(labels, f"a vocabulary of {describe(node)}")
            elif known(indices, scope) is None or content.ndim != 1:
                scope.fix(labels, f"{describe(node)} picks single ones of these channels")
            else:
                picked = [labels[content.astype(np.int64)]]
        result = [*axes[:axis], *picked, *axes[axis + 1 :]]
        if constant_of(data) is not None and content is None and result:
            scope.produce(node, result[-1])
        scope.assign(node.outputs[0], result)

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Write the new places of the indices that stay."""
        data, indices = node.inputs[0], node.inputs[1]
        assert data is not None
        axis = normal_axis(integer(node, "axis", 0), len(scope.shape(data)))
        if not scope.is_cut(data, axis):
            return
        content = known(indices, scope)
        assert content is not None
        alive = scope.alive(data, axis)
        chosen = content.astype(np.int64) % len(alive)
        places = (np.cumsum(alive) - 1)[chosen[alive[chosen]]]
        scope.replace_constant(node, 1, places.astype(content.dtype))

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's select for one constant index, index_select for many."""
        import torch

        data, indices = node.inputs[0], node.inputs[1]
        assert data is not None
        axis = normal_axis(integer(node, "axis", 0), scope.rank(data))
        content = constant_of(indices)
        if content is not None and content.ndim == 0:
            return scope.call(torch.select, scope.tensor(data), axis, int(content))
        return scope.call(_gathered, scope.tensor(data), scope.tensor(indices), axis)


def _gathered(x: Any, indices: Any, axis: int) -> Any:
    """Return the elements at `indices` (any shape, negative from the end) of one axis."""
    import torch

    places = indices.long()
    places = torch.where(places < 0, places + x.shape[axis], places)
    found = x.index_select(axis, places.reshape(-1))
    return found.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])
