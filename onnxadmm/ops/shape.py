"""How long the axes of a tensor are: Shape and Size, and what a graph may do with the numbers.

Following a size forwards tells whether the number of channels is used for anything but a shape. Where no input has
a part in it, it is a number like one that the graph holds, and so is what arithmetic makes of it (a width over a
number of heads): after a cut the one that is needed is written down. Any other one couples the axis that
takes it with its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnxadmm.ops._attributes import integer
from onnxadmm.ops._base import (
    BuildScope,
    CutScope,
    Labels,
    LabelScope,
    Operator,
    describe,
    register,
    unlabelled,
)
from onnxadmm.ops.sizes import (
    RULES,
    WHOLE,
    Entry,
    Reader,
    Size,
    Unknown,
    entries,
    known,
    read_axes,
    settled_entries,
)

# Where a size may end: these operators' own rules couple the labels of an axis with its size's.
_TARGETS = {("Reshape", 1), ("Expand", 1), ("ConstantOfShape", 0), ("Resize", 3)}
# Where it is written down after a cut, as what arithmetic makes of it is, if no input has a part in it.
_MENDED = {("Reshape", 1), ("Expand", 1), ("ConstantOfShape", 0), ("Split", 1)}


def freezes(node: ir.Node) -> bool:
    """Whether the node makes a number of a size to calculate with, which a cut must not change."""
    return node.op_type == "Cast" and integer(node, "to", 0) not in WHOLE


class _Uses:
    """Follows sizes to where they end."""

    def __init__(self, scope: LabelScope) -> None:
        self._scope = scope
        self._reader = Reader(scope)

    def shapes_only(self, value: ir.Value, size: Size) -> bool:
        """Whether the size, which `value` holds, ends in shapes alone, or in bounds.

        A Slice's rule writes bounds anew that are arithmetic on settled sizes, and so do those of most targets.
        """
        waiting, seen = [value], {value}
        while waiting:
            held = waiting.pop()
            found = self._reader.entries(held)
            if found is None or held.is_graph_output():
                return False
            if not any(e == size or (isinstance(e, Unknown) and size in e.sizes) for e in found):
                continue
            for node, port in held.uses():
                fits = self._fits(node, port, held, size)
                if fits is None:
                    fresh = set(node.outputs) - seen
                    seen |= fresh
                    waiting.extend(fresh)
                elif not fits:
                    return False
        return True

    def _fits(self, node: ir.Node, port: int, held: ir.Value, size: Size) -> bool | None:
        """Return whether a size may end at this input, or None where it goes on through the node.

        Args:
            node: A reader of `held`.
            port: Where it reads it.
            held: Holds the size, or what arithmetic made of it.
            size: The size.
        """
        if node.domain not in ("", "ai.onnx") or node.graph is not held.graph:
            # The graph of a value is that of its producer.
            return False
        if node.op_type == "Shape":
            # How many numbers a shape has says nothing of them.
            return True
        if node.op_type == "Slice" and port in (1, 2):
            return known(held, self._scope, self._scope.settled) is not None
        if (node.op_type, port) == ("Reshape", 1) and self._scope.replaced(node):
            return True
        where = (node.op_type, port)
        if where not in _TARGETS and where not in _MENDED and not freezes(node):
            return None if node.op_type in RULES else False
        # The rule of a target must see what this walk sees, or it couples nothing. A scale by the root of
        # a head's size ends in a Cast, whose rule keeps the number as it was.
        if where in _MENDED or freezes(node):
            found = with_rest(node, settled_entries(held, self._scope))
        else:
            found = entries(held, self._scope)
        if found is None or any(isinstance(e, Unknown) and size in e.sizes for e in found):
            return False
        if freezes(node):
            return len(found) == 1
        return where in _TARGETS or size not in found or self._scope.settled(size.value, size.axis)


@register
class Shape(Operator):
    """The sizes of a tensor."""

    op_type = "Shape"
    versions = (1, 13, 15, 19, 21, 23, 24, 25)
    attributes = frozenset({"start", "end"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Fix the channels whose number is used for anything but a shape."""
        x = node.inputs[0]
        assert x is not None
        uses, axes = _Uses(scope), scope.axes(x)
        for a in read_axes(node, len(axes)):
            if axes[a].any() and not uses.shapes_only(node.outputs[0], Size(x, a)):
                scope.fix(axes[a], f"{describe(node)} reads their number at run time")
        scope.assign(node.outputs[0], [unlabelled(n) for n in scope.shape(node.outputs[0])])

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Return the sizes as an int64 tensor, on the device of the data as all constants are."""
        start = integer(node, "start", 0)
        end = node.attributes["end"].as_int() if "end" in node.attributes else None
        return scope.call(_sizes, scope.tensor(node.inputs[0]), start, end)


def _sizes(x: Any, start: int, end: int | None) -> Any:
    """Return the sizes of `x` from axis `start` to before `end` as an int64 tensor."""
    import torch

    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64, device=x.device)


@register
class SizeOf(Operator):
    """The number of elements."""

    op_type = "Size"
    versions = (1, 13, 19, 21, 23, 24, 25)
    # The product of the sizes isn't followed.
    fixes = " reads their number at run time"

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Return the count as an int64 tensor []."""
        return scope.call(_count, scope.tensor(node.inputs[0]))


def _count(x: Any) -> Any:
    """Return the number of elements of `x` as an int64 tensor."""
    import torch

    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


def couple(node: ir.Node, target: ir.Value | None, first: int, scope: LabelScope) -> None:
    """Couple the labels of an output with the axes whose sizes its computed shape reads.

    Element k of the shape is the size of axis `first` + k. A size that can't follow a cut fixes its axis; one that
    is the same in every run is written down where it must be another one (`numbers_after`).

    Args:
        node: The node; its output has its labels already.
        target: The computed shape.
        first: The axis that its first element stands for.
        scope: Where labels are united.
    """
    axes = scope.axes(node.outputs[0])
    found = with_rest(node, settled_entries(target, scope))
    for k, labels in enumerate(axes[first:]):
        entry = Unknown() if found is None or k >= len(found) else found[k]
        if isinstance(entry, Size) and not scope.settled(entry.value, entry.axis):
            meet_size(node, labels, entry, scope)
        elif isinstance(entry, Unknown):
            scope.fix(labels, f"{describe(node)} computes the size of this axis at run time")


def numbers_after(
    target: ir.Value | None, scope: CutScope, before: Sequence[int], after: Sequence[int]
) -> dict[int, int]:
    """Return the elements of a shape, held or computed, that must be written down after a cut, by position.

    Args:
        target: The shape.
        scope: The cut.
        before: How long the axes were that its elements stand for.
        after: How long they are. An element that is another number than `before` says (the 1 of an Expand) stays.
    """
    found = entries(target, scope) or []
    told = settled_entries(target, scope) or []
    changed = {}
    for position, (entry, number) in enumerate(zip(found, told, strict=True)):
        if isinstance(number, Unknown) or (isinstance(number, int) and number < 1):
            continue
        if isinstance(number, Size):
            if not scope.settled(number.value, number.axis):
                continue
            computed = scope.kept(number.value, number.axis)
            was = scope.shape(number.value)[number.axis]
        else:
            moved = isinstance(entry, Unknown) and any(
                scope.is_cut(size.value, size.axis) for size in entry.sizes
            )
            computed, was = -1 if moved else number, number
        wanted = after[position] if was == before[position] else was
        if wanted != computed:
            changed[position] = wanted
    return changed


def rest_after(
    node: ir.Node, scope: CutScope, before: Sequence[int], after: Sequence[int]
) -> dict[int, int]:
    """Return where -1 must be written into a Reshape's shape after a cut: see `with_rest`.

    Args:
        node: The Reshape.
        scope: The cut.
        before: How long the axes of its output were.
        after: How long they are.
    """
    found = settled_entries(node.inputs[1], scope)
    rest = with_rest(node, found)
    return {
        k: -1
        for k, (entry, is_rest) in enumerate(zip(found or [], rest or [], strict=True))
        if isinstance(entry, Unknown)
        and is_rest == -1
        and (after[k] != before[k] or any(scope.is_cut(s.value, s.axis) for s in entry.sizes))
    }


def with_rest(node: ir.Node, found: list[Entry] | None) -> list[Entry] | None:
    """Return a Reshape's shape with -1 for its one element that isn't followed, if no other is -1.

    A Reshape neither makes nor loses elements: this one is what the others leave, however it was computed.

    Args:
        node: Any node.
        found: What the elements of its shape are.
    """
    if found is None or node.op_type != "Reshape" or integer(node, "allowzero", 0):
        return found
    unknown = [k for k, entry in enumerate(found) if isinstance(entry, Unknown)]
    if len(unknown) != 1 or -1 in found:
        return found
    return [-1 if isinstance(entry, Unknown) else entry for entry in found]


def is_sized(node: ir.Node, axis: int, scope: LabelScope) -> bool:
    """Whether a Reshape says how long an axis of its output is in every run, rather than what the rest comes to."""
    found = settled_entries(node.inputs[1], scope) if node.op_type == "Reshape" else None
    entry = found[axis] if found is not None and axis < len(found) else -1
    if isinstance(entry, Size):
        return scope.settled(entry.value, entry.axis)
    x = node.inputs[0]
    if entry == 0 and x is not None:
        return scope.settled(x, axis)
    return isinstance(entry, int) and entry > 0


def meet_size(node: ir.Node, labels: Labels, size: Size, scope: LabelScope) -> bool:
    """Couple an axis with the one whose size it takes, or fix both where they differ in length.

    Returns:
        Whether they are coupled.
    """
    other = scope.axes(size.value)[size.axis]
    reason = f"{describe(node)} reads their number at run time"
    if len(other) == len(labels):
        scope.unite(labels, other, reason)
        return True
    scope.fix(labels, reason)
    scope.fix(other, reason)
    return False
