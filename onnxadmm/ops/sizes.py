"""Sizes that a graph computes: which element of a shape tensor is which axis of which tensor.

Exporters write `x.view(x.size(0), -1)` as Shape, Gather, Concat, Reshape. Following that arithmetic
backwards tells what a computed shape will be after channels went.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from onnxadmm.graph import constant_of
from onnxadmm.ops._attributes import integer
from onnxadmm.ops._base import BuildScope, LabelScope, normal_axis

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
    """Reads integer tensors element by element, each value once."""

    def __init__(
        self,
        scope: _Shapes,
        settled: Settled | None = None,
    ) -> None:
        self._scope = scope
        self._settled = settled or (lambda _value, _axis: False)
        self._memo: dict[ir.Value, list[Entry] | None] = {}
        self._depth = 0

    def entries(self, value: ir.Value) -> list[Entry] | None:
        """Return what each element of a tensor of rank 0 or 1 is, or None where that isn't known."""
        if value not in self._memo:
            self._depth += 1
            self._memo[value] = self._read(value) if self._depth <= _MAX_DEPTH else None
            self._depth -= 1
        return self._memo[value]

    def _read(self, value: ir.Value) -> list[Entry] | None:
        held = constant_of(value)
        if held is not None:
            small = held.dtype.kind in "iub" and held.ndim <= 1 and held.size <= _MAX_ENTRIES
            return [int(n) for n in held.reshape(-1)] if small else None
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in RULES:
            return None
        if _rank(value, self._scope) > 1:
            return None
        found = RULES[node.op_type](self, node)
        return found if found is not None and len(found) <= _MAX_ENTRIES else None

    # --- one rule an operator

    def _shape(self, node: ir.Node) -> list[Entry] | None:
        x = node.inputs[0]
        assert x is not None
        rank = _rank(x, self._scope)
        inner = self.entries(x) if rank == 1 else None
        if inner is not None:
            # The length of a shape is a rank, which no input changes.
            return [len(inner) for _ in read_axes(node, rank)]
        shape = self._scope.shape(x)
        return [shape[a] if self._settled(x, a) else Size(x, a) for a in read_axes(node, rank)]

    def _same(self, node: ir.Node) -> list[Entry] | None:
        assert node.inputs[0] is not None
        if node.op_type == "Cast" and integer(node, "to", 0) not in WHOLE:
            return None
        return self.entries(node.inputs[0])

    def _picked(self, node: ir.Node) -> list[Entry] | None:
        data, indices = (self._operand(node, k) for k in (0, 1))
        if data is None or indices is None:
            return None
        if not all(isinstance(i, int) and -len(data) <= i < len(data) for i in indices):
            return None
        return [data[i] for i in indices if isinstance(i, int)]

    def _sliced(self, node: ir.Node) -> list[Entry] | None:
        data = self._operand(node, 0)
        if "starts" in node.attributes:
            bounds: list[Any] = [node.attributes[n].as_ints() for n in ("starts", "ends")]
        else:
            bounds = [self._operand(node, k) for k in (1, 2)]
        step = self._operand(node, 4) if len(node.inputs) > 4 and node.inputs[4] else [1]  # noqa: PLR2004
        if data is None or step is None or None in bounds or any(len(b) != 1 for b in bounds):
            return None
        first, last, stride = bounds[0][0], bounds[1][0], step[0]
        if not (isinstance(first, int) and isinstance(last, int) and isinstance(stride, int)):
            return None
        chosen = sliced_indices(len(data), first, last, stride)
        return [data[i] for i in chosen.tolist()]

    def _joined(self, node: ir.Node) -> list[Entry] | None:
        result: list[Entry] = []
        for k in range(len(node.inputs)):
            part = self._operand(node, k)
            if part is None or len(result) > _MAX_ENTRIES:
                return None
            result += part
        return result

    def _multiplied(self, node: ir.Node) -> list[Entry] | None:
        x = self._operand(node, 0)
        # Of one axis all there is to choose is whether it is reduced; an empty list of axes may say no.
        if x is None or integer(node, "noop_with_empty_axes", 0):
            return None
        result: Entry = 1
        for entry in x:
            result = _combine("Mul", result, entry)
        return [result]

    def _combined(self, node: ir.Node) -> list[Entry] | None:
        if len(node.inputs) != 2 or integer(node, "fmod", 0):  # noqa: PLR2004  (Max and Min take any number)
            return None
        a, b = (self._operand(node, k) for k in (0, 1))
        if a is None or b is None or (len(a) != len(b) and 1 not in (len(a), len(b))):
            return None
        n = max(len(a), len(b)) if a and b else 0
        a, b = (x * n if len(x) == 1 else x for x in (a, b))
        return [_combine(node.op_type, x, y) for x, y in zip(a, b, strict=True)]

    def _chosen(self, node: ir.Node) -> list[Entry] | None:
        operands = [self._operand(node, k) for k in (0, 1, 2)]
        n = max((len(o) for o in operands if o is not None), default=0)
        rows = [o * n if o is not None and len(o) == 1 else o for o in operands]
        if any(row is None or len(row) != n for row in rows):
            return None
        condition, yes, no = (row or [] for row in rows)
        return [
            (y if c else z) if isinstance(c, int) else _unknown(c, y, z)
            for c, y, z in zip(condition, yes, no, strict=True)
        ]

    def _filled(self, node: ir.Node) -> list[Entry] | None:
        counts = self._operand(node, 0)
        fill = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else None
        if counts is None or len(counts) != 1 or fill is None or fill.dtype.kind not in "iub":
            return None
        count = counts[0]
        whole = isinstance(count, int) and count <= _MAX_ENTRIES
        return [int(fill.reshape(-1)[0])] * count if isinstance(count, int) and whole else None

    def _operand(self, node: ir.Node, port: int) -> list[Entry] | None:
        value = node.inputs[port]
        return None if value is None else self.entries(value)


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
        if op_type == "Div":
            # The standard leaves the sign of a rounded quotient open; sizes have none.
            return x // y if y > 0 and x >= 0 else Unknown()
        if op_type == "Mod":
            return x % y if y > 0 and x >= 0 else Unknown()
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

RULES: dict[str, Callable[[Reader, ir.Node], list[Entry] | None]] = {
    "Shape": Reader._shape,  # noqa: SLF001  (the table of the class's own rules)
    "Gather": Reader._picked,  # noqa: SLF001
    "Slice": Reader._sliced,  # noqa: SLF001
    "Concat": Reader._joined,  # noqa: SLF001
    "Where": Reader._chosen,  # noqa: SLF001
    "ConstantOfShape": Reader._filled,  # noqa: SLF001
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
