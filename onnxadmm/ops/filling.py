"""Tensors that are stretched, repeated, or made from sizes alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.graph import constant_of
from onnxadmm.memory import available_bytes
from onnxadmm.ops._attributes import integer
from onnxadmm.ops._base import (
    BuildScope,
    CutScope,
    LabelScope,
    Operator,
    describe,
    optional_input,
    register,
    unlabelled,
)
from onnxadmm.ops.shape import couple, numbers_after
from onnxadmm.ops.sizes import Size, entries, known, settled_entries, target_sizes

_LARGE_BYTES = 1 << 28


@register
class Expand(Operator):
    """Axes of size 1 stretched to a shape."""

    op_type = "Expand"
    versions = (8, 13)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Axes that aren't stretched keep their labels; stretched ones are all alike, or follow a size."""
        x, target = node.inputs[0], node.inputs[1]
        assert x is not None
        axes, shape = scope.axes(x), scope.shape(node.outputs[0])
        padded = [unlabelled(1)] * (len(shape) - len(axes)) + list(axes)
        found = settled_entries(target, scope)
        first = len(shape) - len(found or ())
        result = []
        for a, size in enumerate(shape):
            labels = padded[a] if len(padded[a]) == size else unlabelled(size)
            entry = found[a - first] if found is not None and a >= first else None
            if len(padded[a]) == 1 and isinstance(entry, Size):
                other = scope.axes(entry.value)[entry.axis]
                labels = other if len(other) == size else labels
            elif len(padded[a]) == 1 and isinstance(entry, int):
                labels = scope.alike(size)
            result.append(labels)
        scope.assign(node.outputs[0], result)
        if constant_of(target) is None:
            if found is None:
                for labels in result:
                    scope.fix(labels, f"{describe(node)} computes its shape at run time")
            else:
                couple(node, target, first, scope)

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Write the new size of each axis that shrank, and what arithmetic on sizes came to."""
        target = node.inputs[1]
        assert target is not None
        _write_sizes(node, 1, scope.shape(target)[0], scope)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's expand to the broadcast of both shapes."""
        sizes: Any = target_sizes(node.inputs[1], scope)
        sizes = scope.tensor(node.inputs[1]) if sizes is None else sizes
        return scope.call(_expanded, scope.tensor(node.inputs[0]), sizes)


def _write_sizes(node: ir.Node, port: int, count: int, scope: CutScope) -> None:
    """Mend a shape of this many elements, which stand for the last axes of the output."""
    output = node.outputs[0]
    shape = scope.shape(output)
    axes = range(len(shape) - count, len(shape))
    before, after = [shape[a] for a in axes], [scope.kept(output, a) for a in axes]
    changed = numbers_after(node.inputs[port], scope, before, after)
    if changed:
        scope.write_numbers(node, port, changed)


def _expanded(x: Any, sizes: Any) -> Any:
    """Stretch `x` to the broadcast of its shape and `sizes`."""
    import torch

    target = sizes.tolist() if isinstance(sizes, torch.Tensor) else sizes
    shape = np.broadcast_shapes(tuple(x.shape), tuple(target))
    size_bytes = math.prod(shape) * x.element_size()
    # A view, which takes nothing itself; but whatever reads it goes over all of it.
    if size_bytes > _LARGE_BYTES and size_bytes > available_bytes():
        raise MemoryError(f"Expand would allocate {size_bytes} bytes")
    return x.expand(shape)


@register
class Tile(Operator):
    """A tensor repeated along each axis."""

    op_type = "Tile"
    versions = (6, 13)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Repeat the labels; counts that are computed fix them."""
        x = node.inputs[0]
        assert x is not None
        axes, shape = scope.axes(x), scope.shape(node.outputs[0])
        counts = entries(node.inputs[1], scope)
        result = []
        for a, labels in enumerate(axes):
            count = None if counts is None else counts[a]
            if isinstance(count, int):
                once = len(labels) == 1
                result.append(scope.alike(count) if once else np.tile(labels, count))
                continue
            scope.fix(labels, f"{describe(node)} computes how often at run time")
            result.append(unlabelled(shape[a]))
        scope.assign(node.outputs[0], result)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's tile."""
        counts: Any = target_sizes(node.inputs[1], scope)
        counts = scope.tensor(node.inputs[1]) if counts is None else counts
        return scope.call(_tiled, scope.tensor(node.inputs[0]), counts)


def _tiled(x: Any, counts: Any) -> Any:
    """Repeat `x` along each axis."""
    import torch

    return torch.tile(x, tuple(counts.tolist() if isinstance(counts, torch.Tensor) else counts))


@register
class ConstantOfShape(Operator):
    """One value all over a shape."""

    op_type = "ConstantOfShape"
    versions = (9, 20, 21, 23, 24, 25)
    attributes = frozenset({"value"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """An axis as long as another takes its labels: all of its elements are the same."""
        shape = scope.shape(node.outputs[0])
        found = settled_entries(node.inputs[0], scope)
        result = []
        for a, size in enumerate(shape):
            entry = None if found is None else found[a]
            if isinstance(entry, int):
                result.append(scope.alike(size))
            elif isinstance(entry, Size):
                result.append(scope.axes(entry.value)[entry.axis])
            else:
                result.append(unlabelled(size))
        scope.assign(node.outputs[0], result)

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Write the new size of each axis that shrank, and what arithmetic on sizes came to."""
        _write_sizes(node, 0, len(scope.shape(node.outputs[0])), scope)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's full."""
        import torch

        fill = np.zeros(1, np.float32)
        if "value" in node.attributes:
            fill = np.array(node.attributes["value"].as_tensor().numpy())
        kind = torch.from_numpy(fill).dtype
        return scope.call(_filled, scope.tensor(node.inputs[0]), fill.reshape(()).item(), kind)


def _filled(shape: Any, value: Any, kind: Any) -> Any:
    """Return a tensor of one value on the device of its shape."""
    import torch

    return torch.full(tuple(shape.tolist()), value, dtype=kind, device=shape.device)


@register
class Range(Operator):
    """Numbers from a start to before a limit."""

    op_type = "Range"
    versions = (11, 27)
    # They are positions, no channels.
    fixes = " counts them"

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's arange."""
        return scope.call(_counted, *(scope.tensor(v) for v in node.inputs))


def _counted(start: Any, limit: Any, delta: Any) -> Any:
    """Return the numbers as a tensor of the start's type on its device."""
    import torch

    return torch.arange(
        start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device
    )


@register
class EyeLike(Operator):
    """Ones on a diagonal of a matrix of another one's shape."""

    op_type = "EyeLike"
    versions = (9, 22)
    attributes = frozenset({"dtype", "k"})
    # The diagonal ties their positions.
    fixes = " lays a diagonal over these channels"

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Compare the indices of the two axes."""
        import torch

        kind = None
        if "dtype" in node.attributes:
            wanted = ir.DataType(integer(node, "dtype", 1)).numpy()
            kind = torch.from_numpy(np.zeros(1, wanted)).dtype
        return scope.call(_eye, scope.tensor(node.inputs[0]), integer(node, "k", 0), kind)


def _eye(x: Any, k: int, kind: Any) -> Any:
    """Return ones where column - row = k."""
    import torch

    rows, columns = (torch.arange(n, device=x.device) for n in x.shape)
    return (columns[None, :] - rows[:, None] == k).to(kind or x.dtype)


@register
class Trilu(Operator):
    """The upper or lower triangle of matrices; the rest becomes zero."""

    op_type = "Trilu"
    versions = (14,)
    attributes = frozenset({"upper"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Fix the matrices' axes: the diagonal ties their positions."""
        assert node.inputs[0] is not None
        axes = scope.axes(node.inputs[0])
        for labels in axes[-2:]:
            scope.fix(labels, f"{describe(node)} lays a diagonal over these channels")
        scope.assign(node.outputs[0], axes)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's triu or tril."""
        import torch

        second = optional_input(node, 1)
        diagonal = None if second is None else known(second, scope)
        x, upper = scope.tensor(node.inputs[0]), bool(integer(node, "upper", 1))
        if second is not None and diagonal is None:
            return scope.call(_triangle, x, scope.tensor(second), upper)
        k = 0 if diagonal is None else int(diagonal.reshape(()))
        return scope.call(torch.triu if upper else torch.tril, x, k)


def _triangle(x: Any, diagonal: Any, upper: bool) -> Any:
    """Return the triangle from a diagonal that a tensor holds."""
    import torch

    return (torch.triu if upper else torch.tril)(x, int(diagonal))
