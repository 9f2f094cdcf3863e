"""Which tensors of a graph are weights: those that play a weight's role, wherever they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from onnxadmm.graph import constant_of
from onnxadmm.ops._base import find

# What may stand between a held tensor and the operator that uses it as a weight.
_BETWEEN = {"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"}


def held_tensors(model: ir.Model) -> Iterator[ir.Value]:
    """Yield what the main graph holds: initializers, then the outputs of Constant nodes."""
    yield from model.graph.initializers.values()
    for node in model.graph:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            yield node.outputs[0]


def weights(model: ir.Model) -> dict[str, ir.Value]:
    """Return the trainable weights by name, in graph order.

    A weight is a float tensor of more than one element that an operator reads where its definition says
    that a weight stands. Bounds, exponents, epsilons and running statistics are none.
    """
    opsets = dict(model.opset_imports)
    return {v.name or "": v for v in held_tensors(model) if _is_weight(v, opsets)}


def layer_weights(model: ir.Model) -> dict[str, list[str]]:
    """Return node name -> names of the weights that the node reads directly."""
    found = weights(model)
    layers: dict[str, list[str]] = {}
    for node in model.graph:
        names = [v.name for v in node.inputs if v is not None and v.name in found]
        if names:
            layers[node.name or node.outputs[0].name or ""] = [n for n in names if n]
    return layers


def _is_weight(value: ir.Value, opsets: Mapping[str, int]) -> bool:
    content = constant_of(value)
    if content is None or content.size <= 1 or not np.issubdtype(content.dtype, np.floating):
        return False
    return _plays_weight(value, opsets)


def _plays_weight(value: ir.Value, opsets: Mapping[str, int]) -> bool:
    for node, port in value.uses():
        operator = find(node, opsets)
        if operator is not None and port in operator.weight_ports:
            return True
        if node.op_type in _BETWEEN and port == 0 and _plays_weight(node.outputs[0], opsets):
            return True
    return False
