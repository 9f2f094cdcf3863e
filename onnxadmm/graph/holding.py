"""Tensors that a stage adds to a graph, the names they get, and what nobody reads any more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.graph.walking import all_nodes, subgraphs

Array = np.ndarray[Any, np.dtype[Any]]


def hold(graph: ir.Graph, name: str, content: Array) -> ir.Value:
    """Add an initializer to the graph and return it.

    Args:
        graph: Where it is registered.
        name: A name that the graph doesn't have yet.
        content: The tensor, of a type that NumPy has.
    """
    tensor = ir.tensor(content, name=name)
    value = ir.Value(
        name=name,
        shape=ir.Shape(content.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def numbered(base: str) -> Iterator[str]:
    """Return `base`, `base_1`, `base_2`, and so on without end."""
    yield base
    number = 1
    while True:
        yield f"{base}_{number}"
        number += 1


def fresh(base: str, taken: MutableSet[Any]) -> str:
    """Return the first of the numbered names that isn't taken, and take it."""
    name = next(n for n in numbered(base) if n not in taken)
    taken.add(name)
    return name


def value_names(graph: ir.Graph) -> set[str | None]:
    """Return the names of all values of a graph, in its branches and loops too: none may be given again outside."""
    nodes = list(all_nodes(graph))
    values = [v for node in nodes for v in (*node.inputs, *node.outputs) if v is not None]
    for body in (graph, *(b for node in nodes for b in subgraphs(node))):
        values += (*body.inputs, *body.outputs, *body.initializers.values())
    return {v.name for v in values}


def drop_unread(graph: ir.Graph, values: Iterable[ir.Value]) -> None:
    """Remove those of the values that nobody reads, and what computed them alone.

    Inputs and outputs of the graph stay, and so does a node with another output that is read.
    """
    pending = list(values)
    while pending:
        value = pending.pop()
        if list(value.uses()) or value.is_graph_output() or value.is_graph_input():
            continue
        node = value.producer()
        if node is None:
            graph.initializers.pop(value.name or "", None)
        elif node.graph is not None and not any(
            list(v.uses()) or v.is_graph_output() for v in node.outputs
        ):
            pending += [v for v in node.inputs if v is not None]
            node.graph.remove(node, safe=True)
