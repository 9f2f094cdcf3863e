"""Telling weights from plain constants, where an operator takes both at the same input."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.graph import constant_of
from onnxadmm.ops._base import describe

Array = np.ndarray[Any, Any]

_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Sum", "Mean"}
_PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "FusedMatMul", "MatMulInteger"}
# What an input passes on its way to the first layer: rescaling, and a change of layout or type.
_PREPARING = {"Add", "Sub", "Mul", "Div", "Cast", "Transpose", "Unsqueeze", "Squeeze", "Reshape"}
_MOVING = {
    "Cast",
    "Concat",
    "Expand",
    "Identity",
    "Mul",
    "Reshape",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
}
# Layers of their own: what comes before one of them is no last step.
_LAYERS = _PRODUCTS | {
    *("LSTM", "GRU", "RNN", "QLinearConv", "QLinearMatMul", "ConvInteger", "DeformConv"),
    *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"),
    *("RMSNormalization", "MeanVarianceNormalization", "Attention", "If", "Loop", "Scan"),
}
# Masks are added in front of a Softmax: large negative numbers where nothing may be read.
_MASKED = -1e3
_MAX_STEPS = 64
_MAX_READERS = 512
# In a grid a number stands at least so often, by the mean.
_OFTEN = 4


class Judge:
    """Says which constants of element-wise arithmetic, products and concatenations were learnt."""

    def __init__(self, graph: ir.Graph, still: AbstractSet[int]) -> None:
        """Judge in one graph.

        Args:
            graph: The main one.
            still: The ids of the values that no run changes.
        """
        self._graph, self._still = graph, still

    def refusal(self, node: ir.Node, port: int, value: ir.Value) -> str | None:
        """Return why a tensor isn't learnt, or None where it is.

        Args:
            node: The node where it meets what is computed at run time.
            port: The input where it enters.
            value: The tensor that the graph holds; what enters may be computed from it.
        """
        content = constant_of(value)
        if content is None:
            return "computed at run time"
        others = [
            v
            for p, v in enumerate(node.inputs)
            if p != port and v is not None and id(v) not in self._still
        ]
        if node.op_type in _ELEMENTWISE:
            return self._elementwise(node, content, others)
        if node.op_type == "Concat":
            same = not content.size or bool((content == content.reshape(-1)[0]).all())
            spread = any(n.op_type in {"Expand", "Tile"} for n, _ in value.uses())
            return f"padding of {describe(node)}" if same and not spread else None
        if (
            node.op_type in {"MatMul", "Gemm", "Einsum"}
            and _turns(node)
            and any(map(_counts, others))
        ):
            return f"frequencies: {describe(node)} multiplies positions for a sine or cosine"
        return None

    def _elementwise(self, node: ir.Node, content: Array, others: list[ir.Value]) -> str | None:
        if node.op_type == "Div":
            return f"a divisor in {describe(node)}"
        if content.size <= 1:
            biased = (
                node.op_type == "Add"
                and content.ndim
                and any(_made_by(v, _PRODUCTS) for v in others)
            )
            return None if biased else f"a single number in {describe(node)}"
        long_axes = sum(n > 1 for n in content.shape)
        if content.dtype.kind not in "iu":
            wide = content.astype(np.float32) if content.dtype.kind != "f" else content
            if _is_mask(wide, long_axes):
                return f"a mask in {describe(node)}"
            if node.op_type == "Mul" and long_axes > 1 and _is_wave(wide):
                return f"a table of sines or cosines in {describe(node)}"
            grid = long_axes > 1 or node.op_type == "Mul"
            # What follows a branch is not looked for.
            if grid and node.graph is self._graph and _is_last(node) and _is_regular(wide):
                return f"a table that {describe(node)} decodes outputs by, after the last layer"
        if long_axes <= 1 and any(self._is_fed(v) for v in others):
            return f"rescales an input in {describe(node)}"
        return None

    def _is_fed(self, value: ir.Value) -> bool:
        """Whether a value is a graph input, but for rescaling, layout and type."""
        for _ in range(_MAX_STEPS):
            node = value.producer()
            if node is None:
                return value.is_graph_input()
            if node.op_type not in _PREPARING:
                return False
            moving = [v for v in node.inputs if v is not None and id(v) not in self._still]
            if len(moving) != 1:
                return False
            value = moving[0]
        return False


def _is_last(node: ir.Node) -> bool:
    """Whether no layer follows a node on any way to the outputs: it decodes what the last ones say.

    A branch or a loop on the way, and an operator of another domain, may hold layers.
    """
    waiting, seen = [node], {id(node)}
    while waiting:
        for value in waiting.pop().outputs:
            for reader in value.consumers():
                layer = reader.op_type in _LAYERS or reader.domain not in ("", "ai.onnx")
                if layer or len(seen) > _MAX_READERS or reader.graph is not node.graph:
                    return False
                if id(reader) not in seen:
                    seen.add(id(reader))
                    waiting.append(reader)
    return True


def _is_regular(content: Array) -> bool:
    """Whether an array holds steps of a grid, or places and sizes of its cells: whole numbers, or few different ones."""
    if content.min() == content.max():
        return False
    whole = bool((content == np.rint(content)).all())
    if sum(n > 1 for n in content.shape) <= 1:
        return whole and bool((content > 0).all())
    there = content[content != 0]
    return whole or len(np.unique(there)) * _OFTEN <= len(there)


def _is_mask(content: Array, long_axes: int) -> bool:
    """Whether an array holds nothing but "may be read" and "may not"."""
    finite = np.isfinite(content)
    if not finite.all():
        return True
    forbidden = content <= _MASKED
    if forbidden.any() and bool((forbidden | (content == 0)).all()):
        return True
    ones = content == 1
    return long_axes > 1 and bool((ones | (content == 0)).all() and ones.any() and not ones.all())


def _is_wave(content: Array) -> bool:
    """Whether an array can be sines or cosines by position: within [-1, 1], and 0 or 1 at position 0."""
    if float(np.abs(content).max()) > 1.0 or content.min() == content.max():
        return False
    for axis, size in enumerate(content.shape):
        first = content.take(0, axis)
        if (
            size > 1
            and first.size > 1
            and first.min() == first.max()
            and abs(first.max()) in (0.0, 1.0)
        ):
            return True
    return False


def _made_by(value: ir.Value, operators: AbstractSet[str]) -> bool:
    node = value.producer()
    return node is not None and node.op_type in operators


def _turns(node: ir.Node) -> bool:
    """Whether a node's result goes into a sine or cosine, and nowhere else."""
    waiting, steps, found = list(node.outputs), 0, False
    while waiting:
        steps += 1
        value = waiting.pop()
        for reader, _ in value.uses():
            if reader.op_type in {"Sin", "Cos"}:
                found = True
            elif reader.op_type in _MOVING and steps < _MAX_STEPS:
                waiting += reader.outputs
            else:
                return False
    return found


def _counts(value: ir.Value) -> bool:
    """Whether a value comes from integers: positions, not features."""
    for _ in range(_MAX_STEPS):
        if value.dtype is not None and value.dtype.is_integer():
            return True
        node = value.producer()
        if node is None or node.op_type not in _MOVING or node.inputs[0] is None:
            return node is not None and node.op_type in {"Range", "CumSum"}
        value = node.inputs[0]
    return False
