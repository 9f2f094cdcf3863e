"""Operators that only move data. One generic rule serves them: run them on labels and read the answer."""

from __future__ import annotations

from collections.abc import Mapping
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
    optional_input,
    register,
)
from onnxadmm.ops.shape import couple, numbers_after, rest_after
from onnxadmm.ops.sizes import Entry, Size, entries, known, target_sizes

Array = np.ndarray[Any, Any]


class Reshaping(Operator):
    """The same elements in the same order under another shape."""

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Reshape the labels as the probe saw the data reshaped."""
        shape = scope.shape(node.outputs[0])
        scope.move(node, lambda x, *_: x.reshape(shape))


@register
class Reshape(Reshaping):
    """To the shape that the second input holds; 0 keeps an axis, -1 takes the rest."""

    op_type = "Reshape"
    versions = (5, 13, 14, 19, 21, 23, 24, 25)
    attributes = frozenset({"allowzero"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Reshape the labels; an axis whose size is computed stands or falls with that size."""
        super().labels(node, scope)
        target = node.inputs[1]
        if constant_of(target) is not None:
            return
        couple(node, target, 0, scope)

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Write the new size of each axis that shrank into the shape."""
        target, output = node.inputs[1], node.outputs[0]
        before = scope.shape(output)
        after = [scope.kept(output, axis) for axis in range(len(before))]
        changed = numbers_after(target, scope, before, after) | rest_after(
            node, scope, before, after
        )
        if not changed:
            return
        if scope.constant(target) is None:
            held = _constant_target(node, entries(target, scope), changed)
            if held is not None:
                scope.replace_constant(node, 1, held)
                return
        scope.write_numbers(node, 1, changed)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's reshape, with 0 replaced by the axis that it keeps."""
        import torch

        x, shape = node.inputs[0], node.inputs[1]
        assert x is not None
        target = target_sizes(shape, scope)
        if target is None:
            keep = not integer(node, "allowzero", 0)
            return scope.call(_reshape_to, scope.tensor(x), scope.tensor(shape), keep)
        data = scope.tensor(x)
        keep = not integer(node, "allowzero", 0)
        sizes = [
            scope.call(torch.Tensor.size, data, axis)
            if keep and isinstance(n, int) and n == 0
            else n
            for axis, n in enumerate(target)
        ]
        return scope.call(torch.reshape, data, tuple(sizes))


def _constant_target(
    node: ir.Node, found: list[Entry] | None, changed: Mapping[int, int]
) -> Array | None:
    """Return a constant that means the same as the computed shape, or None where there is none.

    An axis that is as long as the same axis of the input becomes 0, one other becomes -1.

    Args:
        node: The Reshape.
        found: What the elements of the shape are.
        changed: Position -> number that takes an element's place.
    """
    if found is None or integer(node, "allowzero", 0):
        return None
    free = -1 not in found and -1 not in changed.values()
    result: list[int] = []
    for axis, entry in enumerate(found):
        if axis in changed:
            result.append(changed[axis])
        elif isinstance(entry, int):
            result.append(entry)
        elif isinstance(entry, Size) and entry.value is node.inputs[0] and entry.axis == axis:
            result.append(0)
        elif free:
            free = False
            result.append(-1)
        else:
            return None
    return np.array(result, np.int64)


def _reshape_to(x: Any, shape: Any, keep: bool) -> Any:
    """Reshape `x` to a shape that is itself a tensor; 0 is the axis that it stands for, if any."""
    return x.reshape([x.shape[a] if n == 0 and keep else n for a, n in enumerate(shape.tolist())])


@register
class Flatten(Reshaping):
    """To two axes: those before `axis` and the others."""

    op_type = "Flatten"
    versions = (1, 9, 11, 13, 21, 23, 24, 25)
    attributes = frozenset({"axis"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's flatten where one axis stands before, reshape elsewhere."""
        import torch

        assert node.inputs[0] is not None
        x, rank = scope.tensor(node.inputs[0]), scope.rank(node.inputs[0])
        axis = normal_axis(integer(node, "axis", 1), rank)
        if axis == 1 and rank > 1:
            return scope.call(torch.flatten, x, 1)
        return scope.call(_flatten_at, x, axis)


def _flatten_at(x: Any, axis: int) -> Any:
    """Flatten to [product before axis, product from axis on]."""
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    return x.reshape(rows, int(np.prod(x.shape[axis:], dtype=np.int64)))


def _given_axes(node: ir.Node, constant: Array | None) -> list[int] | None:
    """Return the axes of Squeeze or Unsqueeze as they are given, by the attribute or the second input."""
    given = node.attributes.get("axes")
    if given is not None:
        return list(given.as_ints())
    return None if constant is None else [int(a) for a in constant.reshape(-1)]


@register
class Squeeze(Reshaping):
    """Drop axes of size 1."""

    op_type = "Squeeze"
    versions = (1, 11, 13, 21, 23, 24, 25)
    attributes = frozenset({"axes"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's squeeze."""
        import torch

        assert node.inputs[0] is not None
        second = optional_input(node, 1)
        axes = _given_axes(node, known(second, scope))
        x = scope.tensor(node.inputs[0])
        if second is not None and axes is None:
            return scope.call(_squeeze_at, x, scope.tensor(second))
        return scope.call(torch.squeeze, x, tuple(axes)) if axes else scope.call(torch.squeeze, x)


def _squeeze_at(x: Any, axes: Any) -> Any:
    """Drop the axes that a tensor holds."""
    return x.squeeze(tuple(axes.tolist()))


@register
class Unsqueeze(Reshaping):
    """Insert axes of size 1."""

    op_type = "Unsqueeze"
    versions = (1, 11, 13, 21, 23, 24, 25)
    attributes = frozenset({"axes"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's unsqueeze, axis by axis from the front."""
        import torch

        second = optional_input(node, 1)
        axes = _given_axes(node, known(second, scope))
        data = node.inputs[0]
        assert data is not None
        if axes is not None and len(axes) > 1 and min(axes) < 0:
            # They count in the result, of which nothing is known yet inside a Loop.
            axes = [normal_axis(a, scope.rank(data) + len(axes)) for a in axes]
        x = scope.tensor(data)
        if axes is None:
            return scope.call(_unsqueeze_at, x, scope.tensor(second))
        for axis in sorted(axes):
            x = scope.call(torch.unsqueeze, x, axis)
        return x


def _unsqueeze_at(x: Any, axes: Any) -> Any:
    """Insert the axes that a tensor holds, counted in the result."""
    rank = x.dim() + axes.numel()
    for axis in sorted(a % rank for a in axes.reshape(-1).tolist()):
        x = x.unsqueeze(axis)
    return x


@register
class Transpose(Operator):
    """Axes in another order."""

    op_type = "Transpose"
    versions = (1, 13, 21, 23, 24, 25)
    attributes = frozenset({"perm"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Permute the labels: no axis is mixed with another."""
        assert node.inputs[0] is not None
        axes = scope.axes(node.inputs[0])
        order = integers(node, "perm", range(len(axes))[::-1])
        scope.assign(node.outputs[0], [axes[a] for a in order])

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's permute."""
        import torch

        assert node.inputs[0] is not None
        order = integers(node, "perm", range(scope.rank(node.inputs[0]))[::-1])
        return scope.call(torch.permute, scope.tensor(node.inputs[0]), tuple(order))


@register
class Concat(Operator):
    """Tensors one behind the other along an axis."""

    op_type = "Concat"
    versions = (4, 11, 13)
    attributes = frozenset({"axis"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Labels one behind the other; across the other axes they meet."""
        operands = [scope.axes(v) for v in node.inputs if v is not None]
        axis = normal_axis(integer(node, "axis", 0), len(operands[0]))
        result = list(operands[0])
        for operand in operands[1:]:
            for a, labels in enumerate(operand):
                if a != axis:
                    scope.unite(result[a], labels, f"meets {describe(node)}")
        result[axis] = np.concatenate([o[axis] for o in operands])
        scope.assign(node.outputs[0], result)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's cat."""
        import torch

        tensors = [scope.tensor(v) for v in node.inputs if v is not None]
        return scope.call(torch.cat, tensors, dim=integer(node, "axis", 0))


_SIZES_ARE_AN_INPUT = 13
"""From this opset on Split reads its sizes; before, they are an attribute."""


@register
class Split(Operator):
    """A tensor in pieces along an axis."""

    op_type = "Split"
    versions = (2, 11, 13, 18)
    attributes = frozenset({"axis", "split", "num_outputs"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Split the labels at the places where the data is split."""
        assert node.inputs[0] is not None
        axes = scope.axes(node.inputs[0])
        axis = normal_axis(integer(node, "axis", 0), len(axes))
        start = 0
        for output in node.outputs:
            size = scope.shape(output)[axis]
            pieces = list(axes)
            pieces[axis] = axes[axis][start : start + size]
            scope.assign(output, pieces)
            start += size

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Write the new sizes; without given ones, equal parts must stay equal or be written out."""
        axis = normal_axis(integer(node, "axis", 0), len(scope.shape(node.outputs[0])))
        sizes = [scope.kept(o, axis) for o in node.outputs]
        given = optional_input(node, 1)
        if given is not None:
            before = [scope.shape(o)[axis] for o in node.outputs]
            changed = numbers_after(given, scope, before, sizes)
            if changed:
                scope.write_numbers(node, 1, changed)
            return
        if not any(scope.is_cut(o, axis) for o in node.outputs):
            return
        if "split" in node.attributes:
            node.attributes["split"] = ir.AttrInt64s("split", sizes)
        elif len(set(sizes)) > 1:
            if scope.opset() < _SIZES_ARE_AN_INPUT:
                node.attributes["split"] = ir.AttrInt64s("split", sizes)
            else:
                node.attributes.pop("num_outputs", None)
                scope.replace_constant(node, 1, np.array(sizes, np.int64))

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's split; parts of equal size are counted when it runs, and so are computed sizes."""
        import operator

        axis, count = integer(node, "axis", 0), len(node.outputs)
        sizes: Any = None
        if "split" in node.attributes:
            sizes = list(node.attributes["split"].as_ints())
        elif len(node.inputs) > 1 and node.inputs[1] is not None:
            content = known(node.inputs[1], scope)
            sizes = scope.tensor(node.inputs[1]) if content is None else content.tolist()
        pieces = scope.call(_split, scope.tensor(node.inputs[0]), sizes, count, axis)
        return tuple(scope.call(operator.getitem, pieces, i) for i in range(count))


def _split(x: Any, sizes: Any, count: int, axis: int) -> Any:
    """Split into pieces of these sizes (a list, a tensor or None), or into equal ones but for the last."""
    if sizes is None:
        size = x.shape[axis]
        part = -(-size // count)
        sizes = [max(0, min(part, size - k * part)) for k in range(count)]
    return x.split(sizes if isinstance(sizes, list) else sizes.tolist(), axis)


@register
class Constant(Operator):
    """A tensor that the graph holds."""

    op_type = "Constant"
    versions = (1, 9, 11, 12, 13, 19, 21, 23, 24, 25)
    attributes = frozenset(
        {
            "value",
            "value_float",
            "value_floats",
            "value_int",
            "value_ints",
            "value_string",
            "value_strings",
            "sparse_value",
        }
    )

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Leave it to the scope: a float constant is a weight like any other."""
