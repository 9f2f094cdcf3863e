"""A graph in float32 whose own floats are float16, bfloat16 or double, and its way back.

What is decided, trained and proven about such a graph is decided, trained and proven in float32: in 16 bits two
graphs that compute the same differ by more than a proof may allow, and small steps of training are lost. Going
back, every element whose master is unchanged keeps its original bits (float32 holds each float16 and bfloat16
exactly; a double comes back from the original).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import DivergedError, one_line
from onnxadmm.graph.constants import set_constant
from onnxadmm.graph.walking import all_nodes, constant_of, subgraphs

Array = np.ndarray[Any, Any]

OTHER_FLOATS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
"""The float types that are trained as float32."""

# Attributes that name an element type. (`precision` is QuantizeLinear's, whose scale follows its input.)
_TYPE_ATTRIBUTES = {
    "to",
    "dtype",
    "output_dtype",
    "output_datatype",
    "precision",
    "softmax_precision",
    "stash_type",
}


def widen(model: ir.Model) -> ir.Model:
    """Return a copy that computes in float32 what the model computes in other float types.

    Names stay, those of inputs and outputs too; the types of both are float32 then.

    Args:
        model: The graph, its functions inlined; isn't changed.
    """
    wide = model.clone()
    for value in _values(wide):
        if value.dtype in OTHER_FLOATS:
            _retype(value, ir.DataType.FLOAT)
    for value in _initializers(wide):
        content = constant_of(value)
        if content is not None and _held_type(value) in OTHER_FLOATS:
            set_constant(value, _as_float32(content))
    for node in all_nodes(wide):
        _widen_attributes(node)
    return wide


def _widen_attributes(node: ir.Node) -> None:
    for name, kind in _types_named(node).items():
        if kind in OTHER_FLOATS:
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
    for name, attribute in list(node.attributes.items()):
        tensor = _tensor_of(attribute)
        if tensor is None or tensor.dtype not in OTHER_FLOATS:
            continue
        content = _as_float32(tensor.numpy())
        if _is_constant(node):
            set_constant(node.outputs[0], content)
        else:
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(content, name=tensor.name))


def narrow(wide: ir.Model, original: ir.Model, before: Mapping[str, Array]) -> ir.Model:
    """Return a copy of a graph that came from `widen(original)`, in the original's types.

    Args:
        wide: The float32 graph, cut and trained.
        original: The graph before it was widened.
        before: Content that a tensor had in the original, of the elements that are left of it. Where
            float32 rounds it to what `wide` holds, it is taken as it is, bit by bit.

    Raises:
        DivergedError: A weight has left the range of its type.
    """
    result = wide.clone()
    types = {v.name or "": v.dtype for v in _values(original)}
    types |= {v.name or "": _held_type(v) for v in _held(original)}
    made = {n.outputs[0].name: n for n in all_nodes(original) if n.outputs}
    for node in all_nodes(result):
        twin = made.get(node.outputs[0].name) if node.outputs else None
        if twin is None or _is_constant(node):
            continue
        named = _types_named(twin)
        for name, attribute in twin.attributes.items():
            tensor = _tensor_of(attribute)
            if named.get(name) in OTHER_FLOATS or (tensor and tensor.dtype in OTHER_FLOATS):
                node.attributes[name] = attribute
    for value in _held(result):
        content, name = constant_of(value), value.name or ""
        if content is None or content.dtype != np.float32:
            continue
        kind = types[name] if name in types else _type_in_place(value, types, made)
        if kind is not None and kind in OTHER_FLOATS:
            set_constant(value, _as_type(content, kind, before.get(name), name))
    for value in _values(result):
        kind = types.get(value.name or "")
        if kind is not None and kind in OTHER_FLOATS:
            _retype(value, kind)
    return result


def _type_in_place(
    value: ir.Value,
    types: Mapping[str, ir.DataType | None],
    made: Mapping[str | None, ir.Node],
) -> ir.DataType | None:
    """Return the type of a tensor that the original lacks: of what it replaces, else of what is beside it."""
    for node, port in value.uses():
        twin = made.get(node.outputs[0].name)
        there = (
            []
            if twin is None
            else [None if v is None else types.get(v.name or "") for v in twin.inputs]
        )
        if port < len(there) and there[port] is not None:
            return there[port]
        beside = [kind for kind in there if kind in OTHER_FLOATS]
        if beside:
            return beside[0]
    return None


def _as_float32(content: Array) -> Array:
    # A double beyond float32's range becomes infinite, as it would in any float32 graph.
    with np.errstate(over="ignore"):
        return np.asarray(content.astype(np.float32))


def _as_type(content: Array, kind: ir.DataType, before: Array | None, name: str) -> Array:
    """Return float32 content in another type, with the original's bits wherever it is unchanged."""
    with np.errstate(over="ignore"):
        narrowed = np.asarray(content.astype(kind.numpy()))
    if before is not None and before.shape == content.shape:
        then = _as_float32(before)
        same = (then == content) | (np.isnan(then) & np.isnan(content))
        # +0 and -0 are equal, and not the same bits.
        same &= np.signbit(then) == np.signbit(content)
        narrowed = np.where(same, before, narrowed)
    lost = np.isfinite(content) & ~np.isfinite(narrowed.astype(np.float64))
    if lost.any():
        raise DivergedError(
            f"weight {one_line(name, 60)!r} was trained to {float(np.abs(content[lost]).max()):.3g}, beyond the range "
            f"of its type, {kind.name.lower()}; use a lower learning rate"
        )
    return narrowed


def _retype(value: ir.Value, kind: ir.DataType) -> None:
    # A clone shares the type object with its original.
    value.type = copy.deepcopy(value.type)
    value.dtype = kind


def _is_constant(node: ir.Node) -> bool:
    return node.op_type == "Constant" and node.domain in {"", "ai.onnx"}


def _graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    yield graph
    for node in graph:
        for inner in subgraphs(node):
            yield from _graphs(inner)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in _graphs(model.graph):
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs


def _initializers(model: ir.Model) -> Iterator[ir.Value]:
    for graph in _graphs(model.graph):
        yield from graph.initializers.values()


def _held(model: ir.Model) -> Iterator[ir.Value]:
    yield from _initializers(model)
    for node in all_nodes(model):
        if _is_constant(node):
            yield node.outputs[0]


def _held_type(value: ir.Value) -> ir.DataType | None:
    if value.const_value is not None:
        return value.const_value.dtype
    content = constant_of(value)
    if content is None or content.dtype == object:
        return None
    return ir.DataType.from_numpy(content.dtype)


def _types_named(node: ir.Node) -> dict[str, ir.DataType]:
    return {
        name: ir.DataType(attribute.as_int())
        for name, attribute in node.attributes.items()
        if name in _TYPE_ATTRIBUTES
        and attribute.type == ir.AttributeType.INT
        and not attribute.is_ref()
    }


def _tensor_of(attribute: ir.Attr) -> ir.TensorProtocol | None:
    if attribute.is_ref() or attribute.type != ir.AttributeType.TENSOR:
        return None
    return attribute.as_tensor()
