"""Keeping what a removed channel would make of a zero out of the reference that a cut is proven against.

A dead channel is zero in the masked graph, and 1 / 0 or log 0 of it isn't finite. Every reader's slice is zero as
well, but 0 · ∞ is not a number, and would reach outputs that the channel has no part in. What such an operator
makes of dead channels is therefore set to zero: the cut graph has no such value at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.channels import Labelling
from onnxadmm.compact.masks import alive_mask, among
from onnxadmm.graph.holding import hold
from onnxadmm.ops import WHERE_SINCE

Array = np.ndarray[Any, Any]

POLES = frozenset(
    {
        "Acosh",
        "BatchNormalization",
        "Div",
        "InstanceNormalization",
        "Log",
        "LpNormalization",
        "Mod",
        "Pow",
        "Reciprocal",
        "ReduceLogSum",
    }
)
"""Operators that may not be finite where their inputs are zero."""


def guard_poles(
    masked: ir.Model, labelling: Labelling, gone: Array
) -> list[tuple[ir.Value, ir.Value]]:
    """Set dead channels to zero behind every operator that may not be finite at zero, in place.

    Args:
        masked: A graph whose weights are masked; only outputs of the listed operators get a Where.
        labelling: Its labels.
        gone: The dead labels.

    Returns:
        Each value that was guarded, with the one that is read in its place.
    """
    guarded: list[tuple[ir.Value, ir.Value]] = []
    if masked.opset_imports.get("", 1) < WHERE_SINCE:
        return guarded
    for node in list(masked.graph):
        if node.op_type not in POLES or node.domain not in ("", "ai.onnx"):
            continue
        value = node.outputs[0]
        axes = labelling.axes.get(value.name or "", [])
        stretched = [a if among(a, gone).any() else a[:1] for a in axes]
        alive = alive_mask(stretched, gone)
        if not alive.all() and value.dtype in (ir.DataType.FLOAT, None):
            guarded.append((value, _insert(masked, node, value, alive)))
    return guarded


def _insert(masked: ir.Model, node: ir.Node, value: ir.Value, alive: Array) -> ir.Value:
    """Let every reader of the value read it with the dead channels at zero; return what it reads."""
    kept = hold(masked.graph, f"{value.name}/onnxadmm/alive", alive)
    zero = hold(masked.graph, f"{value.name}/onnxadmm/zero", np.zeros((), np.float32))
    guard = ir.Node("", "Where", [kept, value, zero], name=f"{value.name}/onnxadmm/guard")
    guarded = guard.outputs[0]
    guarded.name, guarded.type = f"{value.name}/onnxadmm/guarded", value.type
    for user, port in list(value.uses()):
        if user is not guard:
            user.replace_input_with(port, guarded)
    masked.graph.insert_after(node, guard)
    return guarded
