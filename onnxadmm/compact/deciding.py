"""Decisions that a graph takes: where the smallest difference of a value changes the result by a jump.

A detector sorts its boxes by score: two scores that differ by rounding alone change places, and its outputs
have nothing in common any more, although both are right. Whether two graphs compute the same is then asked
with the decisions given: both get the same ones as inputs, and what they would have been taken from
is compared like an output. So are sigmoids and softmaxes: where they saturate, ONNX Runtime computes them to an
absolute accuracy, and what they are taken of says more than their few last bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

# Operators whose result jumps, by the inputs that they look at.
_LOOKS_AT: dict[str, tuple[int, ...]] = {
    "ArgMax": (0,),
    "ArgMin": (0,),
    "Ceil": (0,),
    "Equal": (0, 1),
    "Floor": (0,),
    "Greater": (0, 1),
    "GreaterOrEqual": (0, 1),
    "Hardmax": (0,),
    "Less": (0, 1),
    "LessOrEqual": (0, 1),
    "NonMaxSuppression": (0, 1),
    "NonZero": (0,),
    "Round": (0,),
    "Sigmoid": (0,),
    "Sign": (0,),
    "Softmax": (0,),
    "TopK": (0,),
}
SMOOTH = frozenset({"Sigmoid", "Softmax"})
"""Those of them that don't jump. They may compute channels; the others' outputs are places and truths."""


@dataclass(frozen=True)
class Decided:
    """A graph whose decisions are inputs.

    Attributes:
        model: A copy of the graph, with further inputs and outputs.
        decisions: Value that decides -> the input that stands for it.
        compared: Outputs to compare: those of the graph that aren't decisions themselves, and what the
            decisions are taken from.
    """

    model: ir.Model
    decisions: dict[str, str]
    compared: tuple[str, ...]


def decisions(model: ir.Model) -> dict[str, str]:
    """Return the values that decide, by name in graph order, with the operators that compute them.

    Arithmetic on sizes alone is none: it follows a cut.
    """
    return {v.name: node.op_type for node in _deciding(model) for v in node.outputs if v.name}


def with_decisions(model: ir.Model, dtypes: Mapping[str, ir.DataType]) -> Decided:
    """Return a copy of the graph that takes its decisions as inputs.

    Args:
        model: The graph; isn't changed.
        dtypes: Element type of each decision to take, as a run of the graph showed it.
    """
    decided = model.clone()
    graph = decided.graph
    nodes = [n for n in _deciding(decided) if any(v.name in dtypes for v in n.outputs)]
    values = [v for node in nodes for v in node.outputs if v.name]
    own = {v.name for v in values}
    compared = {v.name: v for v in graph.outputs if v.name not in own}
    for node in nodes:
        for port in _LOOKS_AT[node.op_type]:
            value = node.inputs[port] if port < len(node.inputs) else None
            if value is not None and value.producer() is not None and value.name not in own:
                compared[value.name] = value
    given: dict[str, str] = {}
    for value in values:
        assert value.name is not None
        taken = ir.Value(name=f"{value.name}__given", type=ir.TensorType(dtypes[value.name]))
        for node, port in tuple(value.uses()):
            node.replace_input_with(port, taken)
        graph.inputs.append(taken)
        given[value.name] = f"{value.name}__given"
    graph.outputs.clear()
    graph.outputs.extend(compared.values())
    return Decided(decided, given, tuple(n for n in compared if n))


def _deciding(model: ir.Model) -> list[ir.Node]:
    """Return the nodes that take decisions from data."""
    data = {v for v in model.graph.inputs if v.name not in model.graph.initializers}
    found: list[ir.Node] = []
    for node in model.graph:
        if node.op_type in ("Shape", "Size") or not any(v in data for v in node.inputs):
            continue
        data.update(node.outputs)
        looked = [node.inputs[p] for p in _LOOKS_AT.get(node.op_type, ()) if p < len(node.inputs)]
        if node.domain in ("", "ai.onnx") and any(v in data for v in looked):
            found.append(node)
    return found
