"""Elements that are chosen at run time: which channels they come from isn't followed."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, text
from onnxadmm.ops._base import (
    BuildScope,
    LabelScope,
    Operator,
    describe,
    normal_axis,
    register,
    unlabelled,
)
from onnxadmm.ops.sizes import known


class Chosen(Operator):
    """An operator that picks or places elements by computed indices."""

    fixes = " chooses elements by their index"


@register
class GatherElements(Chosen):
    """For each position the element at an index of one axis."""

    op_type = "GatherElements"
    versions = (11, 13)
    attributes = frozenset({"axis"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's gather."""
        data, indices = (scope.tensor(v) for v in node.inputs)
        return scope.call(_gather_elements, data, indices, integer(node, "axis", 0))


def _counted_from_front(indices: Any, size: int) -> Any:
    """Return indices as int64, negative ones counted from the front."""
    import torch

    places = indices.long()
    return torch.where(places < 0, places + size, places)


def _gather_elements(x: Any, indices: Any, axis: int) -> Any:
    """Return x at the indices along the axis."""
    return x.gather(axis, _counted_from_front(indices, x.shape[axis]))


@register
class GatherND(Chosen):
    """Slices at index tuples, the last axis of the indices."""

    op_type = "GatherND"
    versions = (11, 12, 13)
    attributes = frozenset({"batch_dims"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Index with one tensor an axis."""
        data, indices = (scope.tensor(v) for v in node.inputs)
        return scope.call(_gather_nd, data, indices, integer(node, "batch_dims", 0))


def _places(x: Any, indices: Any, first: int) -> tuple[Any, ...]:
    """Return one index tensor for each axis of `x` that the tuples address, from `first` on."""
    return tuple(
        _counted_from_front(column, x.shape[first + k])
        for k, column in enumerate(indices.unbind(-1))
    )


def _gather_nd(x: Any, indices: Any, batch_axes: int) -> Any:
    """Return the slices of x at the index tuples; leading batch axes go together."""
    import torch

    if not batch_axes:
        return x[_places(x, indices, 0)]
    lead = tuple(x.shape[:batch_axes])
    rows, tuples = x.flatten(0, batch_axes - 1), indices.flatten(0, batch_axes - 1)
    batch = torch.arange(rows.shape[0], device=x.device)
    batch = batch.reshape([-1] + [1] * (tuples.dim() - 2))
    found = rows[(batch, *_places(rows, tuples, 1))]
    return found.reshape(lead + tuple(found.shape[1:]))


_REDUCTIONS = {"none": None, "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _reduction(node: ir.Node) -> str | None:
    name = text(node, "reduction", "none")
    if name not in _REDUCTIONS:
        raise UnsupportedError(
            f"{describe(node)}: reduction {name!r} can't be trained yet; compress without training"
        )
    return _REDUCTIONS[name]


@register
class Scatter(Chosen):
    """The data with elements replaced at an index of one axis: the first name of ScatterElements."""

    op_type = "Scatter"
    versions: ClassVar[tuple[int, ...]] = (9,)
    attributes = frozenset({"axis"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's scatter."""
        tensors = (scope.tensor(v) for v in node.inputs)
        return scope.call(_scattered, *tensors, integer(node, "axis", 0), _reduction(node))


@register
class ScatterElements(Scatter):
    """The data with elements replaced at, or combined with, an index of one axis."""

    op_type = "ScatterElements"
    versions = (11, 13, 16, 18)
    attributes = frozenset({"axis", "reduction"})


def _scattered(x: Any, indices: Any, updates: Any, axis: int, reduction: str | None) -> Any:
    """Write updates to the indices along the axis."""
    places = _counted_from_front(indices, x.shape[axis])
    if reduction is None:
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, reduction)


@register
class ScatterND(Chosen):
    """The data with slices replaced at, or combined with, index tuples."""

    op_type = "ScatterND"
    versions = (11, 13, 16, 18)
    attributes = frozenset({"reduction"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Put slices into a flat copy, by their numbers."""
        tensors = (scope.tensor(v) for v in node.inputs)
        return scope.call(_scattered_slices, *tensors, _reduction(node))


def _scattered_slices(x: Any, indices: Any, updates: Any, reduction: str | None) -> Any:
    """Write the slices of updates to the index tuples."""
    depth = indices.shape[-1]
    tail = tuple(x.shape[depth:])
    width = int(np.prod(tail, dtype=np.int64))
    number = 0
    for axis, places in enumerate(_places(x, indices, 0)):
        number = number * x.shape[axis] + places
    rows = x.reshape(-1, width)
    where = number.reshape(-1, 1).expand(-1, width)  # type: ignore[attr-defined]
    new = updates.reshape(-1, width)
    done = (
        rows.scatter(0, where, new)
        if reduction is None
        else rows.scatter_reduce(0, where, new, reduction)
    )
    return done.reshape(x.shape)


@register
class NonZero(Chosen):
    """The indices of all elements that aren't zero, [rank, count]."""

    op_type = "NonZero"
    versions = (9, 13)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's nonzero."""
        return scope.call(_non_zero, scope.tensor(node.inputs[0]))


def _non_zero(x: Any) -> Any:
    """Return the indices of what isn't zero, an axis a row."""
    return x.nonzero().t()


@register
class Compress(Chosen):
    """The slices of an axis, or elements, whose condition is true."""

    op_type = "Compress"
    versions = (9, 11, 28)
    attributes = frozenset({"axis"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Select the indices where the condition is true."""
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else None
        return scope.call(_compressed, *(scope.tensor(v) for v in node.inputs), axis)


def _compressed(x: Any, condition: Any, axis: int | None) -> Any:
    """Return the slices where the condition, which may be shorter, is true."""
    places = condition.nonzero().reshape(-1)
    return x.reshape(-1)[places] if axis is None else x.index_select(axis, places)


@register
class OneHot(Chosen):
    """A new axis with one value at each index and another elsewhere."""

    op_type = "OneHot"
    versions = (9, 11, 28)
    attributes = frozenset({"axis"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Compare the indices with all classes."""
        tensors = (scope.tensor(v) for v in node.inputs)
        return scope.call(_one_hot, *tensors, integer(node, "axis", -1))


def _one_hot(indices: Any, depth: Any, values: Any, axis: int) -> Any:
    """Return values[1] where the class is the index, values[0] elsewhere."""
    import torch

    classes = int(depth)
    position = axis if axis >= 0 else indices.dim() + 1 + axis
    places = _counted_from_front(indices, classes).unsqueeze(position)
    shape = [1] * places.dim()
    shape[position] = classes
    hit = places == torch.arange(classes, device=indices.device).reshape(shape)
    return torch.where(hit, values[1], values[0])


@register
class TopK(Operator):
    """The largest or smallest elements of an axis, with their indices."""

    op_type = "TopK"
    versions = (1, 10, 11, 24)
    attributes = frozenset({"axis", "k", "largest", "sorted"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Fix the axis; hand the others on."""
        assert node.inputs[0] is not None
        axes = list(scope.axes(node.inputs[0]))
        axis = normal_axis(integer(node, "axis", -1), len(axes))
        scope.fix(axes[axis], f"{describe(node)} is computed over all of these channels")
        for output in node.outputs:
            if output.name:
                axes[axis] = unlabelled(scope.shape(output)[axis])
                scope.assign(output, list(axes))

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Sort stably, so that the first of equal elements comes first as in ONNX Runtime."""
        import operator

        count: Any = integer(node, "k", 1)
        if "k" not in node.attributes:
            content = known(node.inputs[1], scope)
            tensor = scope.tensor(node.inputs[1]) if content is None else None
            count = tensor if content is None else int(content.reshape(()))
        axis, largest = integer(node, "axis", -1), bool(integer(node, "largest", 1))
        found = scope.call(_top, scope.tensor(node.inputs[0]), count, axis, largest)
        return tuple(scope.call(operator.getitem, found, k) for k in (0, 1))


def _top(x: Any, count: Any, axis: int, largest: bool) -> tuple[Any, Any]:
    """Return the first `count` elements in order, and their indices."""
    import torch

    count = int(count)
    values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)
