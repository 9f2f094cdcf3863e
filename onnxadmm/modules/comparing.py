"""An imported module against ONNX Runtime: its outputs, and where those differ, node by node.

Two right implementations can differ by much more than rounding: a variance taken as E[x²] - E[x]² of nearly
constant data, a box that a tie of scores decides, a level that a value half-way is rounded to. A wrong one differs
at a node. So where the outputs are apart, every node is given what ONNX Runtime computed before it, and must
return what ONNX Runtime returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from onnxadmm import ops
from onnxadmm.bench import open_isolated, run
from onnxadmm.errors import VerificationError
from onnxadmm.graph import (
    IMPORT_TOLERANCE,
    compare_outputs,
    distance,
    showing,
    subgraphs,
)
from onnxadmm.modules.importing import Imported
from onnxadmm.ops.element_types import from_torch, to_torch

Array = np.ndarray[Any, Any]

# Functions into an interval of about 1. ONNX Runtime computes them to an absolute accuracy (1.2e-7 for
# its sigmoid), however small the result.
_BOUNDED = {"Erf", "HardSigmoid", "Sigmoid", "Softmax", "Tanh"}
_MOVING = {
    *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split"),
    *("Squeeze", "Tile", "Transpose", "Unsqueeze"),
}


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a module is from ONNX Runtime.

    Attributes:
        outputs: Largest difference of an output, relative to that output's largest value.
        nodes: Where the outputs differ: the largest difference of a node's result, each given what ONNX
            Runtime computed before it. None where the outputs agree.
        node: The node of that largest difference.
    """

    outputs: float
    nodes: float | None = None
    node: str = ""

    @property
    def error(self) -> float:
        """What the import is judged by."""
        return self.outputs if self.nodes is None else self.nodes


def compare_with_runtime(model: ir.Model, imported: Imported, feed: Mapping[str, Array]) -> Parity:
    """Compare an imported module with ONNX Runtime on one set of inputs.

    Args:
        model: The graph that was imported.
        imported: Its module, in evaluation mode, on the CPU.
        feed: Inputs by name.

    Raises:
        VerificationError: They differ by more than `IMPORT_TOLERANCE`, node by node too; names the node.
        ModelError: ONNX Runtime can't run it.
    """
    session = open_isolated(model, name="the imported model")
    expected = run(session, imported.outputs, feed)
    arguments = [_argument(feed[n]) for n in imported.inputs]
    with torch.inference_mode():
        got = [_array(g) for g in imported.module(*arguments)]
    units = [_unit(v) for v in model.graph.outputs]
    apart = compare_outputs(expected, got, units)
    if apart <= IMPORT_TOLERANCE:
        return Parity(apart)
    error, node = _by_node(model, imported, feed)
    if not error <= IMPORT_TOLERANCE:
        raise VerificationError(
            f"the imported model differs from ONNX Runtime at {node} by {error:.2g} of its result (allowed "
            f"{IMPORT_TOLERANCE:g}), and by {apart:.2g} of an output; this is a bug in onnxadmm, please report "
            "the model"
        )
    return Parity(apart, error, node)


def _by_node(model: ir.Model, imported: Imported, feed: Mapping[str, Array]) -> tuple[float, str]:
    """Return the largest difference of a node's result from ONNX Runtime's, given the same inputs, and the node."""
    made = {v.name or "": (node, v) for node in model.graph for v in node.outputs}
    names = [n for n in imported.places if n in made]
    session = open_isolated(showing(model, names), name="the imported model", optimize=False)
    expected = dict(zip(names, run(session, names, feed), strict=True))
    forced = _Forced(
        imported,
        {n: (np.asarray(a), _unit(made[n][1])) for n, a in expected.items() if a is not None},
    )
    with torch.inference_mode():
        forced.run(*(_argument(feed[n]) for n in imported.inputs))
    if not forced.errors:
        return float("inf"), "its outputs"
    worst = max(forced.errors, key=forced.errors.__getitem__)
    return forced.errors[worst], ops.describe(made[worst][0])


class _Forced(fx.Interpreter):
    """Runs a module with every node's inputs replaced by what ONNX Runtime computed."""

    def __init__(self, imported: Imported, expected: Mapping[str, tuple[Array, float]]) -> None:
        super().__init__(imported.module)
        self._expected = {imported.places[n]: (n, *e) for n, e in expected.items()}
        self.errors: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        found = super().run_node(n)
        if n.name not in self._expected or not isinstance(found, torch.Tensor):
            return found
        name, array, unit = self._expected[n.name]
        self.errors[name] = distance(array, from_torch(found), unit)
        return to_torch(array).to(found.dtype)


def _unit(value: ir.Value) -> float:
    """Return 1 where a value is the result of bounded functions and nothing but moved since, else 0."""
    waiting, seen = [value], {id(value)}
    while waiting:
        current = waiting.pop()
        node = current.producer()
        if node is None or node.op_type not in _BOUNDED | _MOVING | {"If"}:
            return 0.0
        sources: list[ir.Value | None] = []
        if node.op_type == "If":
            sources += [g.outputs[node.outputs.index(current)] for g in subgraphs(node)]
        elif node.op_type in _MOVING:
            sources += node.inputs if node.op_type == "Concat" else node.inputs[:1]
        fresh = [v for v in sources if v is not None and id(v) not in seen]
        seen |= {id(v) for v in fresh}
        waiting += fresh
    return 1.0


def _argument(array: Array) -> Any:
    return array if array.dtype.kind in "OUS" else to_torch(array)


def _array(value: Any) -> Array:
    return from_torch(value) if isinstance(value, torch.Tensor) else np.asarray(value)
