"""An imported module against ONNX Runtime: its outputs, and where those differ, node by node.

Two right implementations can differ by much more than rounding: a variance taken as E[x²] - E[x]² of nearly
constant data, a box that a tie of scores decides, a level that a value half-way is rounded to. A wrong one differs
at a node. So where the outputs are apart, every node is given what ONNX Runtime computed before it, and must
return what ONNX Runtime returns.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from onnxadmm import ops
from onnxadmm.bench import IsolatedSession, open_isolated, run
from onnxadmm.errors import OnnxadmmError, VerificationError, one_line
from onnxadmm.graph import (
    IMPORT_TOLERANCE,
    compare_outputs,
    distance,
    showing,
    subgraphs,
)
from onnxadmm.modules.deadline import BASE_S, limited
from onnxadmm.modules.importing import Imported
from onnxadmm.ops.element_types import from_torch, to_torch

Array = np.ndarray[Any, Any]

# Functions into an interval of about 1. ONNX Runtime computes them to an absolute accuracy (1.2e-7 for
# its sigmoid), however small the result.
_BOUNDED = {"Erf", "HardSigmoid", "Sigmoid", "Softmax", "Tanh"}
_MOVING = {
    *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split"),
    *("Squeeze", "Tile", "Transpose", "Unsqueeze"),
    # What they return lies where what they read lies.
    *("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"),
    *("ReduceMax", "ReduceMean", "ReduceMin"),
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


class Comparison:
    """Compares an imported module with ONNX Runtime, on one set of inputs after another."""

    def __init__(self, model: ir.Model, imported: Imported) -> None:
        """Open the graph as it is now.

        Args:
            model: The graph that was imported.
            imported: Its module, in evaluation mode, on the CPU.

        Raises:
            ModelError: ONNX Runtime can't open it.
        """
        self._model, self._imported = model, imported
        self._session = open_isolated(model, name="the imported model")
        self._units = [_unit(v) for v in model.graph.outputs]
        self._made = {v.name or "": (node, v) for node in model.graph for v in node.outputs}
        self._names = [n for n in imported.places if n in self._made]

    @functools.cached_property
    def _shown(self) -> IsolatedSession:
        """The graph with every node's result as an output."""
        return open_isolated(
            showing(self._model, self._names), name="the imported model", optimize=False
        )

    def on(self, feed: Mapping[str, Array], tolerance: float = IMPORT_TOLERANCE) -> Parity:
        """Compare on these inputs.

        Args:
            feed: Inputs by name.
            tolerance: Where outputs differ by more, every node is compared.

        Raises:
            VerificationError: They differ by more than the tolerance, node by node too; names the node. Or
                the module fails where ONNX Runtime doesn't.
            RuntimeError: ONNX Runtime refuses these inputs.
        """
        expected = run(self._session, self._imported.outputs, feed)
        started = time.thread_time()
        got = [_array(g) for g in self._computed(feed)]
        took_s = time.thread_time() - started
        apart = compare_outputs(expected, got, self._units)
        if apart <= tolerance:
            return Parity(apart)
        with limited(BASE_S + 2 * took_s):
            error, node = self._by_node(feed)
        if not error <= tolerance:
            raise VerificationError(
                f"the imported model differs from ONNX Runtime at {node} by {error:.2g} of its result (allowed "
                f"{tolerance:g}), and by {apart:.2g} of an output; this is a bug in onnxadmm, please report "
                "the model"
            )
        return Parity(apart, error, node)

    def _computed(self, feed: Mapping[str, Array]) -> Any:
        """Return what the module computes."""
        arguments = [_argument(feed[n]) for n in self._imported.inputs]
        with torch.inference_mode():
            try:
                return self._imported.module(*arguments)
            except OnnxadmmError:
                raise
            except Exception as e:  # (torch raises what it likes)
                raise VerificationError(
                    f"the imported model fails where ONNX Runtime runs ({type(e).__name__}: {one_line(e, 120)}); "
                    "this is a bug in onnxadmm, please report the model"
                ) from e

    def _by_node(self, feed: Mapping[str, Array]) -> tuple[float, str]:
        """Return the largest difference of a node's result from ONNX Runtime's, given the same inputs, and the node."""
        found = run(self._shown, self._names, feed)
        forced = _Forced(
            self._imported,
            {
                n: (np.asarray(a), _unit(self._made[n][1]))
                for n, a in zip(self._names, found, strict=True)
                if a is not None
            },
        )
        with torch.inference_mode():
            forced.run(*(_argument(feed[n]) for n in self._imported.inputs))
        if not forced.errors:
            return float("inf"), "its outputs"
        worst = max(forced.errors, key=forced.errors.__getitem__)
        return forced.errors[worst], ops.describe(self._made[worst][0])


def compare_with_runtime(model: ir.Model, imported: Imported, feed: Mapping[str, Array]) -> Parity:
    """Compare an imported module with ONNX Runtime on one set of inputs; see `Comparison`."""
    return Comparison(model, imported).on(feed)


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
