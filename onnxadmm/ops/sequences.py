"""Sequences of tensors, which are lists in the torch graph, and values that may be absent, which are None."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnxadmm.ops._attributes import integer
from onnxadmm.ops._base import BuildScope, Operator, register


class OfSequence(Operator):
    """An operator that makes, changes or reads a sequence or an optional."""

    # Which tensor of a sequence is read where isn't followed.
    fixes = ": channels aren't followed through sequences"

    def _inputs(self, node: ir.Node, scope: BuildScope) -> list[Any]:
        return [scope.tensor(v) for v in node.inputs]


@register
class SequenceEmpty(OfSequence):
    """A sequence without tensors."""

    op_type, versions = "SequenceEmpty", (11,)
    attributes = frozenset({"dtype"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Make a list."""
        del node
        return scope.call(_listed)


@register
class SequenceConstruct(OfSequence):
    """A sequence of its inputs."""

    op_type, versions = "SequenceConstruct", (11,)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Make a list."""
        return scope.call(_listed, *self._inputs(node, scope))


def _listed(*tensors: Any) -> list[Any]:
    """Return the tensors as a list."""
    return list(tensors)


@register
class SequenceInsert(OfSequence):
    """A sequence with one tensor more, at a position or at the end."""

    op_type, versions = "SequenceInsert", (11,)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Make a longer list."""
        return scope.call(_inserted, *self._inputs(node, scope))


def _inserted(sequence: Sequence[Any], tensor: Any, position: Any = None) -> list[Any]:
    """Return a list with the tensor in front of the position, negative ones counted from the end."""
    place = len(sequence) if position is None else int(position)
    place = place + len(sequence) if place < 0 else place
    return [*sequence[:place], tensor, *sequence[place:]]


@register
class SequenceErase(OfSequence):
    """A sequence without the tensor at a position, or without its last one."""

    op_type, versions = "SequenceErase", (11,)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Make a shorter list."""
        return scope.call(_erased, *self._inputs(node, scope))


def _erased(sequence: Sequence[Any], position: Any = None) -> list[Any]:
    """Return a list without the tensor at the position."""
    place = -1 if position is None else int(position)
    return [t for k, t in enumerate(sequence) if k != place % len(sequence)]


@register
class SequenceAt(OfSequence):
    """The tensor at a position."""

    op_type, versions = "SequenceAt", (11,)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Index the list."""
        return scope.call(_at, *self._inputs(node, scope))


def _at(sequence: Sequence[Any], position: Any) -> Any:
    """Return the tensor at the position, negative ones counted from the end."""
    return sequence[int(position)]


@register
class SequenceLength(OfSequence):
    """How many tensors there are."""

    op_type, versions = "SequenceLength", (11,)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Count them."""
        return scope.call(_length, *self._inputs(node, scope))


def _length(sequence: Sequence[Any]) -> Any:
    """Return the number of tensors as an int64 tensor []."""
    import torch

    return torch.tensor(len(sequence), dtype=torch.int64, device=_device(sequence))


def _device(value: Any) -> Any:
    """Return the device of a tensor, or of the first one of a sequence; None for nothing."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return getattr(value, "device", None)


@register
class SplitToSequence(OfSequence):
    """A tensor in pieces along an axis: of one size, of given sizes, or single slices."""

    op_type, versions = "SplitToSequence", (11, 24)
    attributes = frozenset({"axis", "keepdims"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's split, or unbind."""
        x, *sizes = self._inputs(node, scope)
        keep = bool(integer(node, "keepdims", 1))
        return scope.call(_pieces, x, integer(node, "axis", 0), keep, *sizes)


def _pieces(x: Any, axis: int, keep: bool, sizes: Any = None) -> list[Any]:
    """Return the pieces of `x`; `sizes` is a tensor [n], or [] for one size of which the last may be less."""
    if sizes is None:
        return list(x.split(1, axis) if keep else x.unbind(axis))
    return list(x.split(sizes.tolist(), axis))


@register
class ConcatFromSequence(OfSequence):
    """The tensors one behind the other, along an axis of theirs or a new one."""

    op_type, versions = "ConcatFromSequence", (11,)
    attributes = frozenset({"axis", "new_axis"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's cat or stack."""
        import torch

        function = torch.stack if integer(node, "new_axis", 0) else torch.cat
        return scope.call(function, *self._inputs(node, scope), dim=integer(node, "axis", 0))


@register
class Optional(OfSequence):
    """Its input, or nothing where it has none."""

    op_type, versions = "Optional", (15, 28)
    attributes = frozenset({"type"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Return the input, or None as the result of a call."""
        return scope.call(_perhaps, *self._inputs(node, scope))


def _perhaps(value: Any = None) -> Any:
    """Return the value, or nothing."""
    return value


@register
class OptionalGetElement(OfSequence):
    """What an optional holds; it must hold something."""

    op_type, versions = "OptionalGetElement", (15, 18, 28)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Return the input itself."""
        return scope.tensor(node.inputs[0])


@register
class OptionalHasElement(OfSequence):
    """Whether an optional holds something."""

    op_type, versions = "OptionalHasElement", (15, 18, 28)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Compare with None."""
        return scope.call(_holds, *self._inputs(node, scope))


def _holds(value: Any = None) -> Any:
    """Return whether there is a value as a truth tensor []."""
    import torch

    return torch.tensor(value is not None, device=_device(value))
