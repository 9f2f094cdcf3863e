"""Putting a loaded graph into the form that later stages expect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError, one_line
from onnxadmm.graph.holding import fresh, numbered, value_names
from onnxadmm.graph.inputs import implied_rank
from onnxadmm.graph.walking import all_nodes


def clear_stale(model: ir.Model) -> None:
    """Drop recorded shapes of intermediate values, in place; graph inputs and outputs keep theirs.

    Recorded shapes follow no surgery, and shape inference believes them rather than the graph.
    Types stay: no surgery changes them.
    """
    scopes: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in scopes:
        keep = {id(v) for v in (*graph.inputs, *graph.outputs)}
        for node in all_nodes(graph):
            for value in node.outputs:
                if id(value) not in keep and not value.is_graph_output():
                    value.shape = None


def complete_inputs(model: ir.Model) -> None:
    """Give graph inputs that declare no shape one with open dimensions, in place.

    ONNX Runtime takes an input without a shape, the ONNX checker doesn't. Only the rank is added, and
    only where a convolution or another operator of fixed rank reads the input.

    Raises:
        UnsupportedError: Nothing says the rank of an input.
    """
    for value in model.graph.inputs:
        if value.shape is None:
            rank = implied_rank(value)
            if rank is None:
                raise UnsupportedError(
                    f"graph input {one_line(repr(value.name), 60)} declares no shape, and no operator implies "
                    "one; export it with a shape"
                )
            value.shape = ir.Shape([None] * rank)


def complete_outputs(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give graph outputs that declare no shape one with open dimensions, in place.

    As with inputs, the ONNX checker asks for a rank.

    Args:
        model: The model.
        shapes: Shapes by value name, as a probe saw them; only their lengths are used.
    """
    for value in model.graph.outputs:
        if value.shape is None and value.name is not None and value.name in shapes:
            value.shape = ir.Shape([None] * len(shapes[value.name]))


def showing(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Return a copy of the graph with these values as further outputs."""
    shown = model.clone()
    there = {v.name for v in shown.graph.outputs}
    values = {v.name: v for node in shown.graph for v in node.outputs}
    shown.graph.outputs.extend(values[n] for n in names if n not in there)
    return shown


def shared_uniform(model: ir.Model) -> list[ir.Value]:
    """Return the vectors of one repeated number that several nodes read, directly or through Identity.

    Exporters store equal constants once, and the biases of an untrained network, or the scales of its
    norms, are all alike. Nothing ties the layers that read them.
    """
    found = []
    for value in model.graph.initializers.values():
        content = None if value.const_value is None else value.const_value
        if content is None or len(content.shape) != 1 or not content.dtype.is_floating_point():
            continue
        if len(list(value.uses())) < 2 or value.is_graph_input() or value.is_graph_output():  # noqa: PLR2004
            continue
        numbers = content.numpy()
        if numbers.size > 1 and (numbers == numbers[0]).all():
            found.append(value)
    return found


def untie_uniform(model: ir.Model) -> None:
    """Give every reader of a shared vector of one repeated number a copy of its own, in place.

    An Identity that only passes it on goes, and its output's name is the copy's.
    """
    taken = value_names(model.graph)
    for value in shared_uniform(model):
        content = value.const_value
        assert content is not None
        numbers = content.numpy()
        # The one that keeps the original reads it directly, where any does.
        readers = sorted(value.uses(), key=lambda use: use[0].op_type == "Identity")
        for node, port in readers[1:]:
            result = node.outputs[0]
            passes_on = node.op_type == "Identity" and not result.is_graph_output()
            if node.graph is not model.graph:
                continue
            name = result.name if passes_on else fresh(f"{value.name}", taken)
            tensor = ir.tensor(numbers.copy(), name=name)
            copy = ir.Value(
                name=name, shape=value.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            if passes_on:
                result.replace_all_uses_with(copy)
                model.graph.remove(node, safe=True)
            else:
                node.replace_input_with(port, copy)
            model.graph.register_initializer(copy)


def name_nodes(model: ir.Model, *, unnamed: bool = True) -> None:
    """Give nodes that share a name, or have none, unique ones, in place. All others keep theirs.

    Args:
        model: The model; a name is unique within its main graph with all subgraphs, and within each
            function.
        unnamed: Also name the nodes without a name. ONNX Runtime accepts those.
    """
    scopes: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in scopes:
        nodes = list(all_nodes(graph))
        taken = {n.name for n in nodes if n.name}
        seen: set[str] = set()
        numbers: dict[str, Iterator[str]] = {}
        for node in nodes:
            if node.name and node.name not in seen:
                seen.add(node.name)
            elif node.name or unnamed:
                base = node.name or f"{node.op_type}_{_first_output(node)}"
                # One counter for each name: 100,000 nodes of one name must not take a day.
                candidates = numbers.setdefault(base, numbered(base))
                node.name = next(n for n in candidates if n not in taken)
                taken.add(node.name)
                seen.add(node.name)


def _first_output(node: ir.Node) -> str:
    return next((v.name for v in node.outputs if v.name), "")
