"""Sizes that a graph computes: which element of a shape tensor is which axis of which tensor.

Exporters write `x.view(x.size(0), -1)` as Shape, Gather, Concat, Reshape. Following that arithmetic
backwards tells what a computed shape will be after channels went. It is data movement on sizes: each operator is
run on arrays of what their elements are.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from onnxadmm.graph import constant_of
from onnxadmm.ops._attributes import integer, integers
from onnxadmm.ops._base import BuildScope, LabelScope, normal_axis, optional_input

# Longer integer tensors aren't shapes; deeper arithmetic isn't followed.
_MAX_ENTRIES = 64
_MAX_DEPTH = 64
_MAX_SEEN = 1000
WHOLE = (ir.DataType.INT32.value, ir.DataType.INT64.value)


@dataclass(frozen=True, slots=True)
class Size:
    """The size of one axis of a tensor."""

    value: ir.Value
    axis: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """A number known only at run time, and the sizes that it depends on."""

    sizes: frozenset[Size] = frozenset()


Entry = int | Size | Unknown
Entries = np.ndarray[Any, np.dtype[np.object_]]
"""An entry an element, in the tensor's shape."""


Settled = Callable[[ir.Value, int], bool]
"""Whether an axis of a tensor has the same length in every run."""


class _Shapes(Protocol):
    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Return the concrete shape of the value."""


def _rank(value: ir.Value, scope: _Shapes) -> int:
    """Return the number of axes: in a branch that no run has taken that is all that is known."""
    counted = getattr(scope, "rank", None)
    return int(counted(value)) if counted is not None else len(scope.shape(value))


def entries(value: ir.Value | None, scope: _Shapes) -> list[Entry] | None:
    """Return what each element of an integer tensor of rank 0 or 1 is, or None where that isn't known."""
    return None if value is None else Reader(scope).entries(value)


def partly_known(value: ir.Value | None, scope: SettledShapes) -> list[Entry]:
    """Return what the elements of a tensor [n] are as far as that is known; none where nothing is."""
    if value is None:
        return []
    return Reader(scope, scope.settled, partly=True).entries(value) or []


class SettledShapes(_Shapes, Protocol):
    """A scope of labels or of a cut."""

    def settled(self, value: ir.Value, axis: int) -> bool:
        """Return whether the axis has the same length in every run."""


def settled_entries(value: ir.Value | None, scope: SettledShapes) -> list[Entry] | None:
    """Return `entries`, with arithmetic on settled sizes as the number that it comes to, if that is positive."""
    found = entries(value, scope)
    if value is None or found is None or not any(isinstance(e, Unknown) for e in found):
        return found
    numbers = Reader(scope, scope.settled).entries(value) or found
    return [
        n if isinstance(e, Unknown) and isinstance(n, int) and n > 0 else e
        for e, n in zip(found, numbers, strict=True)
    ]


def sizes_in(value: ir.Value | None, scope: _Shapes) -> set[Size]:
    """Return the sizes that an integer tensor of rank 0 or 1 is computed from, as far as that is followed."""
    found: set[Size] = set()
    for entry in entries(value, scope) or ():
        found |= {entry} if isinstance(entry, Size) else _unknown(entry).sizes
    return found


def known(
    value: ir.Value | None, scope: _Shapes, settled: Settled | None = None
) -> np.ndarray[Any, Any] | None:
    """Return the integers of a tensor [n] or [] that no input can change, or None.

    Beyond what the graph holds this computes short integer arithmetic on it, and on the sizes of axes that
    are settled: a labelled axis is as long as a weight's.
    """
    held = constant_of(value)
    if held is not None:
        return held if held.dtype.kind in "iu" else None
    found = None if value is None else Reader(scope, settled).entries(value)
    if value is None or found is None or not all(isinstance(e, int) for e in found):
        return None
    return np.array(found, np.int64).reshape((-1,) if _rank(value, scope) else ())


def target_sizes(value: ir.Value | None, scope: BuildScope) -> tuple[Any, ...] | None:
    """Return a computed shape as Python numbers in the torch graph, or None where it takes a tensor."""
    import torch

    found = entries(value, scope)
    if found is None or any(isinstance(e, Unknown) for e in found):
        return None
    return tuple(
        scope.call(torch.Tensor.size, scope.tensor(e.value), e.axis) if isinstance(e, Size) else e
        for e in found
    )


def settled(value: ir.Value | None, scope: LabelScope) -> np.ndarray[Any, Any] | None:
    """Return the content of a tensor that is the same in every run, however it is computed.

    Unlike `scope.constant` this tells what the probe merely saw once from what can't change.
    """
    held = constant_of(value)
    if held is not None or value is None:
        return held
    waiting, seen = [value], {value}
    while waiting:
        node = waiting.pop().producer()
        if (
            node is None
            or len(seen) > _MAX_SEEN
            or node.op_type.startswith(("Random", "Multinomial", "Bernoulli"))
        ):
            return None
        fresh = {v for v in node.inputs if v is not None and constant_of(v) is None} - seen
        seen |= fresh
        waiting.extend(fresh)
    return scope.constant(value)


class Reader:
    """Reads integer tensors element by element, each value once: arrays of entries go where the graph's go."""

    def __init__(
        self, scope: _Shapes, settled: Settled | None = None, *, partly: bool = False
    ) -> None:
        """Hold what to read with.

        Args:
            scope: Tells shapes.
            settled: Which axes have one length in every run; by default none is taken for it.
            partly: Read tensors of any rank, and call an element unknown where its arithmetic isn't followed,
                rather than not to read its tensor at all.
        """
        self._scope = scope
        self._settled = settled or (lambda _value, _axis: False)
        self._partly = partly
        self._memo: dict[ir.Value, Entries | None] = {}
        self._depth = 0

    def entries(self, value: ir.Value) -> list[Entry] | None:
        """Return what each element of a tensor of rank 0 or 1 is, or None where that isn't known."""
        found = self._array(value)
        return None if found is None or found.ndim > 1 else found.reshape(-1).tolist()

    def _array(self, value: ir.Value | None) -> Entries | None:
        if value is None:
            return None
        if value not in self._memo:
            self._depth += 1
            self._memo[value] = self._read(value) if self._depth <= _MAX_DEPTH else None
            self._depth -= 1
        return self._memo[value]

    def _read(self, value: ir.Value) -> Entries | None:
        held = constant_of(value)
        if held is not None:
            if held.size > _MAX_ENTRIES or (held.ndim > 1 and not self._partly):
                return None
            if held.dtype.kind not in "iub":
                return self._unread(value)
            return _entries([int(n) for n in held.reshape(-1)], held.shape)
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in RULES:
            return self._unread(value)
        if not self._partly and _rank(value, self._scope) > 1:
            return None
        found = RULES[node.op_type](self, node)
        return found if found is not None and found.size <= _MAX_ENTRIES else None

    def _unread(self, value: ir.Value) -> Entries | None:
        """Return unknown elements for a small tensor that isn't read, if that is asked for."""
        shape = self._scope.shape(value) if self._partly else (_MAX_ENTRIES + 1,)
        size = math.prod(shape)
        return _entries([Unknown()] * size, shape) if size <= _MAX_ENTRIES else None

    # --- one rule an operator

    def _shape(self, node: ir.Node) -> Entries | None:
        x = node.inputs[0]
        assert x is not None
        rank = _rank(x, self._scope)
        inner = self._array(x) if rank == 1 else None
        axes = read_axes(node, rank)
        if inner is not None:
            # The length of a shape is a rank, which no input changes.
            return _entries([len(inner) for _ in axes])
        shape = self._scope.shape(x)
        return _entries([shape[a] if self._settled(x, a) else Size(x, a) for a in axes])

    def _same(self, node: ir.Node) -> Entries | None:
        if node.op_type == "Cast" and integer(node, "to", 0) not in WHOLE:
            # What is calculated with it is no size any more.
            return self._unread(node.outputs[0])
        found = self._array(node.inputs[0])
        rank = _rank(node.outputs[0], self._scope)
        if found is None or rank == found.ndim:
            return found
        if rank < 2:  # noqa: PLR2004
            return found.reshape((-1,) * rank) if rank or found.size == 1 else None
        shape = self._scope.shape(node.outputs[0])
        return found.reshape(shape) if math.prod(shape) == found.size else None

    def _turned(self, node: ir.Node) -> Entries | None:
        found = self._array(node.inputs[0])
        return (
            None
            if found is None
            else found.transpose(integers(node, "perm", range(found.ndim)[::-1]))
        )

    def _picked(self, node: ir.Node) -> Entries | None:
        data, indices = (self._array(node.inputs[k]) for k in (0, 1))
        if data is None or indices is None or not data.ndim:
            return None
        axis = normal_axis(integer(node, "axis", 0), data.ndim)
        size = data.shape[axis]
        if not all(isinstance(i, int) and -size <= i < size for i in indices.reshape(-1)):
            return None
        return np.asarray(np.take(data, indices.astype(np.int64), axis), object)

    def _sliced(self, node: ir.Node) -> Entries | None:
        data = self._array(node.inputs[0])
        if data is None or not data.ndim:
            return None
        if "starts" in node.attributes:
            bounds = [integers(node, name, ()) for name in ("starts", "ends")]
            axes, steps = integers(node, "axes", range(len(bounds[0]))), [1] * len(bounds[0])
        else:
            read = [self._numbers(node, port) for port in (1, 2, 3, 4)]
            if read[0] is None or read[1] is None:
                return None
            bounds = [read[0], read[1]]
            given = [bool(optional_input(node, port)) for port in (3, 4)]
            if any(there and r is None for there, r in zip(given, read[2:], strict=True)):
                return None
            axes = read[2] if read[2] is not None else list(range(len(read[0])))
            steps = read[3] if read[3] is not None else [1] * len(read[0])
        for axis, first, last, step in zip(axes, *bounds, steps, strict=True):
            chosen = sliced_indices(data.shape[axis], first, last, step)
            data = data.take(chosen, axis)
        return data

    def _joined(self, node: ir.Node) -> Entries | None:
        parts: list[Entries] = []
        for value in node.inputs:
            part = self._array(value)
            if part is None or not part.ndim or sum(p.size for p in parts) > _MAX_ENTRIES:
                return None
            parts.append(part)
        return np.concatenate(parts, integer(node, "axis", 0))

    def _multiplied(self, node: ir.Node) -> Entries | None:
        x = self._array(node.inputs[0])
        # Of one axis all there is to choose is whether it is reduced; an empty list of axes may say no.
        if x is None or x.ndim != 1 or integer(node, "noop_with_empty_axes", 0):
            return None
        result: Entry = 1
        for entry in x:
            result = _combine("Mul", result, entry)
        return _entries([result], (1,) * _rank(node.outputs[0], self._scope))

    def _combined(self, node: ir.Node) -> Entries | None:
        if len(node.inputs) != 2 or integer(node, "fmod", 0):  # noqa: PLR2004  (Max and Min take any number)
            return None
        return self._elementwise(node, lambda x, y: _combine(node.op_type, x, y))

    def _chosen(self, node: ir.Node) -> Entries | None:
        def choose(condition: Entry, yes: Entry, no: Entry) -> Entry:
            if isinstance(condition, int):
                return yes if condition else no
            return _unknown(condition, yes, no)

        return self._elementwise(node, choose)

    def _elementwise(self, node: ir.Node, function: Callable[..., Entry]) -> Entries | None:
        operands = [a for v in node.inputs if (a := self._array(v)) is not None]
        if len(operands) < len(node.inputs):
            return None
        try:
            found = np.frompyfunc(function, len(operands), 1)(*operands)
        except ValueError:
            return None
        return np.asarray(found, object)

    def _filled(self, node: ir.Node) -> Entries | None:
        counts = self._numbers(node, 0)
        fill = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else None
        if counts is None or fill is None or fill.dtype.kind not in "iub":
            return None
        size = math.prod(counts)
        if min(counts, default=0) < 0 or size > _MAX_ENTRIES:
            return None
        return _entries([int(fill.reshape(-1)[0])] * size, tuple(counts))

    def _numbers(self, node: ir.Node, port: int) -> list[int] | None:
        """Return an input that is numbers alone, as a list."""
        found = self._array(optional_input(node, port))
        numbers = [] if found is None else [n for n in found.reshape(-1) if isinstance(n, int)]
        return numbers if found is not None and len(numbers) == found.size else None


def _entries(found: Sequence[Entry], shape: tuple[int, ...] | None = None) -> Entries:
    array = np.empty(len(found), object)
    array[:] = found
    return array if shape is None else array.reshape(shape)


def _unknown(*parts: Entry) -> Unknown:
    sizes: set[Size] = set()
    for part in parts:
        if isinstance(part, Size):
            sizes.add(part)
        elif isinstance(part, Unknown):
            sizes |= part.sizes
    return Unknown(frozenset(sizes))


def _combine(op_type: str, x: Entry, y: Entry) -> Entry:
    """Compute two elements, where they are numbers or the one doesn't matter."""
    if isinstance(x, int) and isinstance(y, int):
        if op_type in ("Div", "Mod"):
            # The standard leaves the sign of a rounded quotient open; sizes have none.
            if y <= 0 or x < 0:
                return Unknown()
            return x // y if op_type == "Div" else x % y
        return int(_WHOLE_NUMBERS[op_type](x, y))
    if op_type in ("Mul", "Div") and y == 1:
        return x
    if op_type == "Mul" and x == 1:
        return y
    negative = any(isinstance(e, int) and e < 0 for e in (x, y))
    if op_type == "Equal" and negative and any(isinstance(e, Size) for e in (x, y)):
        return 0
    return _unknown(x, y)


_WHOLE_NUMBERS: dict[str, Callable[[int, int], int]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Max": max,
    "Min": min,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
}

RULES: dict[str, Callable[[Reader, ir.Node], Entries | None]] = {
    "Shape": Reader._shape,  # noqa: SLF001  (the table of the class's own rules)
    "Gather": Reader._picked,  # noqa: SLF001
    "Slice": Reader._sliced,  # noqa: SLF001
    "Concat": Reader._joined,  # noqa: SLF001
    "Where": Reader._chosen,  # noqa: SLF001
    "ConstantOfShape": Reader._filled,  # noqa: SLF001
    "Transpose": Reader._turned,  # noqa: SLF001
    **dict.fromkeys(("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape"), Reader._same),  # noqa: SLF001
    "ReduceProd": Reader._multiplied,  # noqa: SLF001
    **dict.fromkeys((*_WHOLE_NUMBERS, "Div", "Mod"), Reader._combined),  # noqa: SLF001
}


def sliced_indices(
    size: int, start: int, end: int, step: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the indices that a Slice takes from an axis: Python's own clamping."""
    return np.arange(size, dtype=np.int64)[start:end:step]


def read_axes(node: ir.Node, rank: int) -> range:
    """Return the axes whose sizes a Shape node returns."""
    start = integer(node, "start", 0)
    end = node.attributes["end"].as_int() if "end" in node.attributes else None
    return range(rank)[start:end]


def normal_axes(values: Any, rank: int) -> list[int]:
    """Return axes counted from the front, in the order given."""
    return [normal_axis(int(a), rank) for a in np.asarray(values).reshape(-1)]
