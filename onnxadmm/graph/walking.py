"""Small questions about nodes and values that every stage asks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

from onnxadmm.errors import UnsupportedError, one_line

_CONSTANT_TYPES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_string": object,
    "value_strings": object,
}


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """Return the value of an initializer or of a Constant node's output, else None.

    An initializer that is also a graph input counts: its value is the default. Nothing is computed, so
    the output of a Cast of a constant is None. The array may share memory with the model: copy before
    writing.
    """
    if value is None:
        return None
    node = value.producer()
    if node is None:
        return None if value.const_value is None else value.const_value.numpy()
    if node.op_type != "Constant" or node.domain not in {"", "ai.onnx"}:
        return None
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            return None
        if name == "value":
            # `as_tensor` asks at every call whether this is a tensor, which takes longer than reading it.
            return np.asarray(attribute.value.numpy())
        if name in _CONSTANT_TYPES:
            held = attribute.value
            held = list(held) if name.endswith("s") else held
            return np.array(held, dtype=_CONSTANT_TYPES[name])
    return None


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs that a node holds: the branches of an If, the body of a Loop or Scan."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def all_nodes(scope: ir.Model | ir.Graph | ir.Function) -> Iterator[ir.Node]:
    """Yield every node of a graph or function in order, each before the nodes of its subgraphs.

    For a model: those of its main graph; functions are scopes of their own (`model.functions`).
    """
    graph = scope.graph if isinstance(scope, ir.Model) else scope
    yield from ir.traversal.RecursiveGraphIterator(graph)


def node_label(node: ir.Node) -> str:
    """Return a printable name of a node for messages: its name, or operator and first output."""
    if node.name:
        return one_line(node.name, 80)
    output = next((v.name for v in node.outputs if v.name), "")
    return one_line(f"{node.op_type} -> {output}" if output else node.op_type, 80)


def since_version(model: ir.Model, node: ir.Node) -> int:
    """Return the opset version in which the node's operator got its present definition.

    With the domain and the operator's name this identifies a definition. For a domain that ONNX doesn't
    define (com.microsoft) it is the imported version itself.

    Raises:
        UnsupportedError: ONNX has no such operator in the imported opset.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    # Functions import the default domain in the model's version: loading checks that.
    opset = node.version or model.opset_imports.get(domain, model.opset_imports.get("ai.onnx"))
    if domain not in {"", "ai.onnx.ml", "ai.onnx.preview.training"}:
        return opset or 1
    try:
        return int(onnx.defs.get_schema(node.op_type, opset or 0, domain).since_version)
    except onnx.defs.SchemaError:
        raise UnsupportedError(
            f"node {node_label(node)}: no operator {one_line(node.op_type, 40)} in opset version {opset}; "
            "export the model again"
        ) from None
