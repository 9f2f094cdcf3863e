"""Channel shuffles: Reshape, Transpose, Reshape that together only put an axis into another order.

Step by step the axis is split, and labels would have to stay rectangular across its parts: the channels of a
shuffle's groups would be coupled, twice as many at each unit of a ShuffleNet. As a whole it is a permutation
that every label passes through alone. When channels go, a Gather in the new order takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.graph import Probe

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Shuffle:
    """An axis in another order.

    Attributes:
        source: What is shuffled.
        axis: Its axis.
        order: Index of the source for each index of the result.
        between: Names of the two values inside, which nothing else reads.
        reshapes: The first and the last of its nodes.
    """

    source: ir.Value
    axis: int
    order: Array
    between: tuple[str, str]
    reshapes: tuple[ir.Node, ir.Node]


def find_shuffles(model: ir.Model, probe: Probe) -> dict[str, Shuffle]:
    """Return the shuffles of the main graph by the name of their result."""
    found = {}
    for node in model.graph:
        shuffle = _shuffle(node, probe)
        if shuffle is not None:
            found[node.outputs[0].name or ""] = shuffle
    return found


def _shuffle(last: ir.Node, probe: Probe) -> Shuffle | None:
    turn = _before(last, "Reshape", "Transpose")
    split = _before(turn, "Transpose", "Reshape") if turn is not None else None
    if turn is None or split is None or split.inputs[0] is None:
        return None
    source = split.inputs[0]
    names = [v.name or "" for v in (source, split.outputs[0], last.outputs[0])]
    if any(n not in probe.shapes for n in names):
        return None
    whole, parts, result = (probe.shapes[n] for n in names)
    if whole != result:
        return None
    attribute = turn.attributes.get("perm")
    perm = list(attribute.as_ints()) if attribute is not None else list(range(len(parts)))[::-1]
    for axis, count in _splits(whole, parts):
        order = list(range(axis, axis + count))
        inside = perm[axis : axis + count]
        # All other axes stay where they are, whatever their sizes will be.
        if perm[:axis] + perm[axis + count :] != [a for a in range(len(parts)) if a not in order]:
            continue
        if sorted(inside) != order:
            continue
        places = np.arange(whole[axis]).reshape(parts[axis : axis + count])
        turned = places.transpose([a - axis for a in inside]).reshape(-1)
        between = (split.outputs[0].name or "", turn.outputs[0].name or "")
        return Shuffle(source, axis, turned, between, (split, last))
    return None


def _before(node: ir.Node, op_type: str, wanted: str) -> ir.Node | None:
    """Return the node of the wanted type whose only reader this node is."""
    value = node.inputs[0] if node.op_type == op_type and node.inputs else None
    producer = value.producer() if value is not None else None
    if value is None or producer is None or producer.op_type != wanted:
        return None
    if len(list(value.uses())) != 1 or value.is_graph_output() or producer.graph is not node.graph:
        return None
    return producer


def _splits(whole: tuple[int, ...], parts: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield each axis that may have been split into neighbours, and into how many."""
    count = len(parts) - len(whole) + 1
    if count < 2:  # noqa: PLR2004
        return
    for axis, size in enumerate(whole):
        rest = whole[:axis] == parts[:axis] and whole[axis + 1 :] == parts[axis + count :]
        if size > 1 and rest and math.prod(parts[axis : axis + count]) == size:
            yield axis, count
