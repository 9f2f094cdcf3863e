"""Model-local functions: written out while the graph is worked on, and calls again where nothing in them changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx import numpy_helper
from onnx_ir.passes.common import InlinePass, inliner

from onnxadmm.graph.walking import all_nodes

_CALL = "onnxadmm.call"


@dataclass(frozen=True)
class Call:
    """A call of a function, and the nodes that were written out for it.

    Attributes:
        operator: Domain, name and overload of the function.
        name: The calling node's name.
        inputs: Names of what it reads; None where it leaves an input out.
        outputs: Names of its results; empty where nobody asks for one.
        attributes: As the call gives them.
        metadata: Of the calling node.
        body: The nodes written out, serialised, in order.
    """

    operator: tuple[str, str, str]
    name: str | None
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    attributes: tuple[ir.Attr, ...]
    metadata: dict[str, str]
    body: tuple[bytes, ...]


@dataclass(frozen=True)
class Calls:
    """The functions of a model, and where its main graph called them."""

    functions: dict[tuple[str, str, str], ir.Function] = field(default_factory=dict)
    calls: tuple[Call, ...] = ()
    opsets: dict[str, int] = field(default_factory=dict)


def inline_functions(model: ir.Model) -> Calls:
    """Write the model's own functions out where they are called, in place.

    Their weights and channels are then those of the graph. Functions that nobody calls go too. The
    expansion is bounded by the loader's checks.

    Returns:
        What `restore_calls` needs to turn the nodes into calls again.
    """
    if not model.functions:
        return Calls()
    functions = {key: function.clone() for key, function in model.functions.items()}
    opsets = dict(model.opset_imports)
    scopes: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for scope in scopes:
        for node in all_nodes(scope):
            function = model.functions.get(node.op_identifier())
            if function is not None and len(node.outputs) < len(function.outputs):
                # A call may leave out the last outputs; the pass wants them all.
                node.resize_outputs(len(function.outputs))
    callers = [n for n in model.graph if n.op_identifier() in functions]
    before = []
    for number, node in enumerate(callers):
        before.append((_without_body(node), dict(node.metadata_props)))
        # The pass hands a call's metadata to every node that it writes out.
        node.metadata_props[_CALL] = str(number)
    with _quick_names():
        InlinePass()(model)
    model.functions.clear()
    bodies: dict[int, list[bytes]] = {}
    for node in all_nodes(model.graph):
        tag = node.metadata_props.pop(_CALL, None)
        if tag is not None and node.graph is model.graph:
            node.meta[_CALL] = int(tag)
            bodies.setdefault(int(tag), []).append(_content(node))
    calls = tuple(
        Call(*rest, metadata, tuple(bodies.get(number, ())))
        for number, (rest, metadata) in enumerate(before)
    )
    return Calls(functions, calls, opsets)


@contextlib.contextmanager
def _quick_names() -> Iterator[None]:
    """Let onnx-ir's inliner find the names that it finds, without trying all numbers before at each one.

    It counts from 2 up for each node: 20,000 nodes of one name, or calls of one function, take it minutes.
    """
    place, slow = "_make_unique_name", getattr(inliner, "_make_unique_name", None)
    last: dict[tuple[int, str], int] = {}

    def quick(name: str, _: object, used: set[str]) -> str:
        candidate, number = name, last.get((id(used), name), 1)
        while candidate in used:
            number += 1
            candidate = f"{name}_{number}"
        last[id(used), name] = number
        used.add(candidate)
        return candidate

    if slow is not None:
        setattr(inliner, place, quick)
    try:
        yield
    finally:
        if slow is not None:
            setattr(inliner, place, slow)


def restore_calls(model: ir.Model, known: Calls) -> None:
    """Turn the nodes of a function into a call of it again, in place, where none of them changed.

    Args:
        model: A graph that came from the one that `inline_functions` wrote its functions out in.
        known: What that returned.
    """
    groups: dict[int, list[ir.Node]] = {}
    for node in model.graph:
        if _CALL in node.meta:
            groups.setdefault(node.meta[_CALL], []).append(node)
    there = {v.name: v for v in (*model.graph.inputs, *model.graph.initializers.values())}
    there |= {v.name: v for node in model.graph for v in node.outputs}
    used: set[tuple[str, str, str]] = set()
    for number, nodes in groups.items():
        call = known.calls[number]
        if tuple(map(_content, nodes)) != call.body or not _closed(nodes, call, there):
            continue
        _replace(model, nodes, call, there)
        used.add(call.operator)
    _add_functions(model, known, used)
    if used:
        model.graph.sort()


def _closed(nodes: list[ir.Node], call: Call, there: dict[str | None, ir.Value]) -> bool:
    """Whether what a call reads still exists, and nothing but its results is read from outside."""
    if any(name is not None and name not in there for name in call.inputs):
        return False
    inside = {id(n) for n in nodes}
    for value in (v for n in nodes for v in n.outputs):
        read = value.is_graph_output() or any(id(n) not in inside for n, _ in value.uses())
        if read and value.name not in call.outputs:
            return False
    made = {v.name for n in nodes for v in n.outputs}
    return all(name in made or not name for name in call.outputs)


def _replace(
    model: ir.Model, nodes: list[ir.Node], call: Call, there: dict[str | None, ir.Value]
) -> None:
    old = {v.name: v for n in nodes for v in n.outputs}
    # Results that nobody asked for came with the body's own names, and go with it.
    asked = [name if name in old and _is_read(old[name], nodes) else "" for name in call.outputs]
    domain, operator, overload = call.operator
    new = ir.Node(
        domain,
        operator,
        [None if n is None else there[n] for n in call.inputs],
        call.attributes,
        overload=overload,
        num_outputs=len(asked),
        name=call.name,
        metadata_props=dict(call.metadata),
    )
    olds = [old[name] for name in asked if name]
    news = [v for v, name in zip(new.outputs, asked, strict=True) if name]
    for value, name in zip(new.outputs, asked, strict=True):
        value.name = name
    for before, after in zip(olds, news, strict=True):
        after.shape, after.type = before.shape, before.type
        there[before.name] = after
    ir.convenience.replace_nodes_and_values(model.graph, nodes[-1], nodes, [new], olds, news)


def _is_read(value: ir.Value, nodes: list[ir.Node]) -> bool:
    inside = {id(n) for n in nodes}
    return value.is_graph_output() or any(id(n) not in inside for n, _ in value.uses())


def _add_functions(model: ir.Model, known: Calls, used: set[tuple[str, str, str]]) -> None:
    """Give the model the functions that are called, and those that they call."""
    waiting = list(used)
    while waiting:
        key = waiting.pop()
        if key in model.functions or key not in known.functions:
            continue
        function = known.functions[key].clone()
        model.functions[key] = function
        if key[0] in known.opsets:
            model.opset_imports.setdefault(key[0], known.opsets[key[0]])
        waiting += [node.op_identifier() for node in all_nodes(function)]


def _without_body(
    node: ir.Node,
) -> tuple[
    tuple[str, str, str], str | None, tuple[str | None, ...], tuple[str, ...], tuple[ir.Attr, ...]
]:
    return (
        node.op_identifier(),
        node.name,
        tuple(None if v is None else v.name for v in node.inputs),
        tuple(v.name or "" for v in node.outputs),
        tuple(node.attributes.values()),
    )


def _content(node: ir.Node) -> bytes:
    """Return all that a node computes with: neither metadata nor the form that a tensor is stored in."""
    proto = ir.to_proto(node)
    proto.ClearField("metadata_props")
    proto.ClearField("doc_string")
    for attribute in proto.attribute:
        if attribute.HasField("t"):
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t)))
    return bytes(proto.SerializeToString(deterministic=True))
