"""Decisions that a graph takes: where the smallest difference of a value changes the result by a jump.

A detector sorts its boxes by score: two scores that differ by rounding alone change places, and its outputs
have nothing in common any more, although both are right. Whether two graphs compute the same is then asked
with the decisions given: both get the same ones as inputs, and what they would have been taken from
is compared like an output. Sigmoids and softmaxes are given as well: where they saturate, ONNX Runtime computes
them to an absolute accuracy, which is no relative one for what comes behind. Each graph's own is compared with
the other's on the scale from 0 to 1, and what it is taken of as far as it can matter: a score of -1e9 that masks a
position must not set the scale for those that count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx.defs
import onnx_ir as ir

Array = np.ndarray[Any, Any]

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
# Operators whose result jumps as well, and isn't given to another graph: it may hold channels.
_JUMPS_TOO = frozenset(
    {
        "DynamicQuantizeLinear",
        "If",
        "IsInf",
        "IsNaN",
        "Loop",
        "Mod",
        "QuantizeLinear",
        "Scan",
        "SequenceMap",
        "Shrink",
        "ThresholdedRelu",
        "Unique",
    }
)
# The logarithm of the smallest number above zero that a float has: what is further below a row's largest
# adds nothing to its softmax, and a sigmoid of more is 0 or 1.
_SPAN = 104.0


@dataclass(frozen=True)
class Saturating:
    """A sigmoid or softmax that a graph is given.

    Attributes:
        name: Its result.
        source: What it is taken of.
        axis: That a softmax sums over; None for a sigmoid.
        flat: Whether it sums over all axes from that one on, as before opset 13.
    """

    name: str
    source: str
    axis: int | None
    flat: bool

    def apart(self, expected: Mapping[str, Array], got: Mapping[str, Array]) -> float:
        """Return how far two graphs are apart here, as a share of the largest number that matters.

        Args:
            expected: Source and result of the one, by name; each computed its own result.
            got: Those of the other.
        """
        first, second = (self._mattering(a[self.source]) for a in (expected, got))
        if first.shape != second.shape:
            return np.inf
        sources = _largest(first, second)
        scale = float(np.abs(first[np.isfinite(first)]).max(initial=0)) or 1.0
        # Neither a sigmoid nor a softmax moves by more than what it is taken of.
        results = _largest(expected[self.name], got[self.name])
        return max(sources / scale, results - sources if np.isfinite(results) else np.inf)

    def _mattering(self, source: Array) -> Array:
        """Return a source with what is too small, or too large, to matter at the edge of what isn't."""
        wide = source.astype(np.float64)
        if self.axis is None:
            return np.clip(wide, -_SPAN, _SPAN)
        axis = self.axis % max(wide.ndim, 1)
        axes = tuple(range(axis, wide.ndim)) if self.flat else (axis,)
        with np.errstate(invalid="ignore"):
            largest: Array = wide.max(axis=axes, keepdims=True, initial=-np.inf)
            matters: Array = np.maximum(wide, largest - _SPAN)
        return matters


def _largest(expected: Array, got: Array) -> float:
    """Return the largest difference; infinity where shapes differ or only one number is finite."""
    if expected.shape != got.shape:
        return np.inf
    with np.errstate(invalid="ignore"):
        apart = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    apart = np.where((expected == got) | (np.isnan(expected) & np.isnan(got)), 0.0, apart)
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0))


@dataclass(frozen=True)
class Decided:
    """A graph whose decisions are inputs.

    Attributes:
        model: A copy of the graph, with further inputs and outputs.
        decisions: Value that decides -> the input that stands for it.
        compared: Outputs to compare: those of the graph that aren't decisions themselves, and what the
            decisions are taken from.
        saturating: The sigmoids and softmaxes among the decisions, which are compared by what matters.
    """

    model: ir.Model
    decisions: dict[str, str]
    compared: tuple[str, ...]
    saturating: tuple[Saturating, ...]

    @property
    def shown(self) -> list[str]:
        """The outputs that the graph has now."""
        return [o.name for o in self.model.graph.outputs if o.name]


def decisions(model: ir.Model) -> dict[str, str]:
    """Return the values that decide, by name in graph order, with the operators that compute them.

    Arithmetic on sizes alone is none: it follows a cut.
    """
    return {v.name: node.op_type for node in _deciding(model) for v in node.outputs if v.name}


def jumps(model: ir.Model) -> bool:
    """Whether rounding may change anything by more than rounding: a result jumps, or nobody knows the operator."""
    for node, _ in _behind_data(model):
        kind = node.op_type
        known = node.domain in ("", "ai.onnx") and onnx.defs.has(kind)
        if not known or kind in _JUMPS_TOO or kind in _LOOKS_AT.keys() - SMOOTH:
            return True
        # Where the largest element is, or what a number is cut off to.
        if (kind == "MaxPool" and len(node.outputs) > 1) or (kind == "Cast" and _truncates(node)):
            return True
    return False


def _truncates(node: ir.Node) -> bool:
    """Whether a Cast makes whole numbers or truths of what may be fractions."""
    to, x = ir.DataType(node.attributes["to"].as_int()), node.inputs[0]
    return not to.is_floating_point() and (
        x is None or x.dtype is None or x.dtype.is_floating_point()
    )


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
    further: dict[str | None, ir.Value] = {}
    saturating = []
    for node in nodes:
        for port in _LOOKS_AT[node.op_type]:
            value = node.inputs[port] if port < len(node.inputs) else None
            if value is None or value.producer() is None or value.name in own:
                continue
            if node.op_type in SMOOTH:
                further |= {v.name: v for v in (value, node.outputs[0])}
                saturating.append(_saturating(node, value, model.opset_imports.get("", 1)))
            else:
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
    graph.outputs.extend((compared | further).values())
    return Decided(decided, given, tuple(n for n in compared if n), tuple(saturating))


def _saturating(node: ir.Node, source: ir.Value, opset: int) -> Saturating:
    flat = opset < 13  # noqa: PLR2004  (when Softmax became one over a single axis)
    axis = None
    if node.op_type == "Softmax":
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1 if flat else -1
    return Saturating(node.outputs[0].name or "", source.name or "", axis, flat)


def _deciding(model: ir.Model) -> list[ir.Node]:
    """Return the nodes that take decisions from data."""
    return [
        node
        for node, ports in _behind_data(model)
        if node.domain in ("", "ai.onnx") and ports & set(_LOOKS_AT.get(node.op_type, ()))
    ]


def _behind_data(model: ir.Model) -> Iterator[tuple[ir.Node, set[int]]]:
    """Yield the nodes that read what the graph is fed with or what was made of it, but its sizes, and at which inputs."""
    data = {v for v in model.graph.inputs if v.name not in model.graph.initializers}
    for node in model.graph:
        ports = {k for k, v in enumerate(node.inputs) if v in data}
        if ports and node.op_type not in ("Shape", "Size"):
            data.update(node.outputs)
            yield node, ports
