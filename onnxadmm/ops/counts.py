"""Means written by hand: a sum over axes, then a product or quotient with the number of its terms.

The number is a constant of the graph, and becomes the number of the channels that are left.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.graph import constant_of
from onnxadmm.ops._base import CutScope, optional_input
from onnxadmm.ops.sizes import normal_axes

_NEAR = 1e-3


def reduced_axes(node: ir.Node, rank: int, given: Any) -> list[int]:
    """Return the axes that a reduction reduces.

    Args:
        node: The reduction.
        rank: Of what it reduces.
        given: The content of its second input, for one that takes its axes there.
    """
    axes = node.attributes["axes"].as_ints() if "axes" in node.attributes else given
    chosen = normal_axes([] if axes is None else axes, rank)
    noop = node.attributes.get("noop_with_empty_axes")
    return chosen if chosen or (noop is not None and noop.as_int()) else list(range(rank))


def dividers(node: ir.Node, terms: int) -> list[tuple[ir.Node, int]]:
    """Return the nodes that divide a sum by how many terms it has, each with the input that holds the number."""
    found = []
    for user, port in node.outputs[0].uses() if node.op_type.startswith("ReduceSum") else ():
        other = 1 - port
        if user.op_type == "Mul" or (user.op_type == "Div" and other):
            held = constant_of(user.inputs[other])
            if held is not None and held.size == 1 and held.dtype.kind == "f":
                number = float(held.reshape(()))
                times = number if user.op_type == "Mul" else 1 / number if number else 0.0
                if abs(times * terms - 1) < _NEAR:
                    found.append((user, other))
    return found


def mend_count(node: ir.Node, scope: CutScope) -> None:
    """Let a node that divides a sum by how many terms it had divide it by how many it has."""
    for value in dict.fromkeys(node.inputs[:2]):
        total = None if value is None else value.producer()
        if total is None or not total.op_type.startswith("ReduceSum"):
            continue
        x = total.inputs[0]
        assert x is not None
        shape = scope.shape(x)
        axes = reduced_axes(total, len(shape), scope.constant(optional_input(total, 1)))
        before = math.prod(shape[a] for a in axes)
        after = math.prod(scope.kept(x, a) for a in axes)
        for user, port in dividers(total, before) if after != before else ():
            if user is node:
                held = scope.constant(node.inputs[port])
                assert held is not None
                factor = before / after if node.op_type == "Mul" else after / before
                scope.replace_constant(node, port, np.asarray(held * factor, held.dtype))
