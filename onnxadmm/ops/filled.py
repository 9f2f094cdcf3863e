"""Weights that a ConstantOfShape fills: made tensors that the graph holds, so that they can learn and be cut."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxadmm.graph import constant_of
from onnxadmm.ops.roles import roles

MAX_ELEMENTS = 1 << 26
"""Larger ones aren't made: a few bytes of a file can ask for any size."""

# Between these and a plain constant nothing but its content tells, and a filled one has none.
_ELEMENTWISE = {"Add", "Concat", "Div", "Mean", "Mul", "Sub", "Sum", "Where"}


def filled_weights(model: ir.Model) -> list[str]:
    """Return the names of the weights that nodes ConstantOfShape make of a shape that the graph holds."""
    names = [node.outputs[0].name or "" for node in model.graph if _is_filled(node)]
    if not names:
        return []
    trial = model.clone()
    _materialise(trial, names)
    found = roles(trial)
    return [
        name
        for name in names
        if name in found and any(node.op_type not in _ELEMENTWISE for node in found[name].readers)
    ]


def materialise_weights(model: ir.Model) -> None:
    """Let the graph hold the weights that it makes by ConstantOfShape, in place; names stay."""
    _materialise(model, filled_weights(model))


def _materialise(model: ir.Model, names: list[str]) -> None:
    wanted = set(names)
    for node in list(model.graph):
        value = node.outputs[0] if node.outputs else None
        if value is None or value.name not in wanted or not _is_filled(node):
            continue
        content = np.full(_shape(node), _number(node))
        tensor = ir.tensor(content, name=value.name)
        held = ir.Value(
            name=value.name,
            shape=ir.Shape(content.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        value.replace_all_uses_with(held)
        model.graph.remove(node, safe=True)
        model.graph.register_initializer(held)


def _is_filled(node: ir.Node) -> bool:
    if node.op_type != "ConstantOfShape" or node.domain not in ("", "ai.onnx"):
        return False
    shape = constant_of(node.inputs[0])
    if shape is None or not shape.size or (shape < 1).any() or node.outputs[0].is_graph_output():
        return False
    return _number(node).dtype.kind == "f" and math.prod(map(int, shape)) <= MAX_ELEMENTS


def _shape(node: ir.Node) -> tuple[int, ...]:
    shape = constant_of(node.inputs[0])
    assert shape is not None
    return tuple(map(int, shape))


def _number(node: ir.Node) -> np.ndarray:
    given = node.attributes.get("value")
    return np.zeros((), np.float32) if given is None else given.as_tensor().numpy().reshape(())
