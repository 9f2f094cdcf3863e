"""The reference of a cut: the original graph with every slice of the dead channels set to zero.

Where a node's value depends on how many channels there are (a mean over them, a layer norm, a product of
two computed tensors), zeros alone aren't the same as fewer channels. Such a node runs on the live channels,
which are selected before it, and what it computes is laid back between zeros. All else stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.channels import Labelling
from onnxadmm.compact.cutting import Surgery, carriers
from onnxadmm.compact.guarding import guard_poles
from onnxadmm.compact.masks import alive_mask
from onnxadmm.graph import constant_of
from onnxadmm.graph.constants import compute_constant, set_constant
from onnxadmm.graph.holding import hold

Array = np.ndarray[Any, Any]


def mask_channels(model: ir.Model, labelling: Labelling, dead: Iterable[int]) -> ir.Model:
    """Return a copy of the model with every slice of the dead channels set to zero.

    Statistics over these channels are taken over the live ones (`Labelling.live`).

    Args:
        model: The graph that was labelled.
        labelling: Its labels.
        dead: The labels that go.
    """
    masked = model.clone()
    gone = np.array(sorted(dead), np.int64)
    for value in carriers(masked, labelling):
        content = constant_of(value)
        assert content is not None
        compute_constant(value, partial(_masked, content, labelling.axes[value.name or ""], gone))
    _take_live(masked, labelling, gone, guard_poles(masked, labelling, gone))
    return masked


def expand_channels(
    model: ir.Model, labelling: Labelling, dead: Iterable[int], cut: ir.Model
) -> ir.Model:
    """Return a copy of the model with the weights of the cut one, and zero on every dead slice.

    This is the reference that a cut model is proven against, after it was trained further: the
    original's graph, so that nothing but the surgery differs.

    Args:
        model: The graph that was labelled.
        labelling: Its labels.
        dead: The labels that went.
        cut: What `cut_channels` made of it, with the weights of today.
    """
    masked = model.clone()
    gone = np.array(sorted(dead), np.int64)
    carrying = set(labelling.weights)
    today = {n: constant_of(v) for n, v in ops.held(cut).items()}
    for name, value in ops.held(masked).items():
        content, old = today.get(name), constant_of(value)
        if content is None or old is None:
            continue
        if value.name in carrying:
            axes = labelling.axes[value.name or ""]
            compute_constant(value, partial(_expanded, content, old.dtype, axes, gone))
        elif content.shape == old.shape and content.dtype.kind == "f":
            set_constant(value, content)
    _take_live(masked, labelling, gone, guard_poles(masked, labelling, gone))
    return masked


def _masked(content: Array, axes: Sequence[Array], gone: Array) -> Array:
    return np.asarray(content * alive_mask(axes, gone), content.dtype)


def _expanded(content: Array, dtype: np.dtype[Any], axes: Sequence[Array], gone: Array) -> Array:
    alive = alive_mask(axes, gone)
    whole = np.zeros(alive.shape, dtype)
    whole[alive] = content.reshape(-1)
    return whole


def _take_live(
    model: ir.Model,
    labelling: Labelling,
    gone: Array,
    replaced: Iterable[tuple[ir.Value, ir.Value]],
) -> None:
    """Run the nodes of `labelling.live` on live channels alone.

    Args:
        model: The masked graph.
        labelling: The original's labels.
        gone: The dead ones.
        replaced: Values of the original with those that are read in their place.
    """
    if not gone.size:
        return
    scope = Surgery(model, labelling, {}, gone)
    for old, new in replaced:
        scope.rename(old, new)
    opsets = dict(model.opset_imports)
    for node in list(model.graph):
        operator = ops.find(node, opsets)
        if operator is None or labelling.live.isdisjoint(v.name for v in node.outputs):
            continue
        scope.enter(node)
        wanted = [(v, _cut_axes(v, scope)) for v in node.inputs]
        results = [(v, _cut_axes(v, scope)) for v in node.outputs]
        operator.resize(node, scope)
        for port, (value, axes) in enumerate(wanted):
            if value is not None and axes and node.inputs[port] is value:
                node.replace_input_with(port, _selected(node, port, value, axes, scope))
        for value, axes in results:
            if axes:
                _lay_back(node, value, axes, scope, labelling.dtypes[value.name or ""])


def _cut_axes(value: ir.Value | None, scope: Surgery) -> list[int]:
    if value is None or not value.name:
        return []
    rank = len(scope.labels(value))
    return [a for a in range(rank) if scope.is_cut(value, a)]


def _selected(
    node: ir.Node, port: int, value: ir.Value, axes: list[int], scope: Surgery
) -> ir.Value:
    """Gather the live channels of an input before its node."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    read = value
    for axis in axes:
        places = np.flatnonzero(scope.alive(read, axis))
        name = f"{node.outputs[0].name}:live:{port}:{axis}"
        gather = _node("Gather", [value, hold(graph, f"{name}:places", places)], name, axis=axis)
        graph.insert_before(node, gather)
        value = gather.outputs[0]
    scope.rename(read, value)
    return value


def _lay_back(node: ir.Node, value: ir.Value, axes: list[int], scope: Surgery, dtype: str) -> None:
    """Lay an output of live channels between zeros, for everything that reads it."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    readers = list(value.uses())
    last, whole, mask = node, value, np.ones([1] * len(scope.labels(value)), np.dtype(dtype))
    for axis in axes:
        alive = scope.alive(value, axis)
        places = np.where(alive, np.cumsum(alive) - 1, 0)
        name = f"{value.name}:whole:{axis}"
        gather = _node("Gather", [whole, hold(graph, f"{name}:places", places)], name, axis=axis)
        graph.insert_after(last, gather)
        last, whole = gather, gather.outputs[0]
        shape = [1] * mask.ndim
        shape[axis] = -1
        mask = mask * alive.reshape(shape).astype(mask.dtype)
    held = hold(graph, f"{value.name}:mask", mask)
    product = _node("Mul", [whole, held], f"{value.name}:whole")
    graph.insert_after(last, product)
    scope.rename(value, product.outputs[0])
    for user, port in readers:
        user.replace_input_with(port, product.outputs[0])
    if value.is_graph_output():
        _hand_over(graph, value, product.outputs[0])


def _hand_over(graph: ir.Graph, value: ir.Value, whole: ir.Value) -> None:
    """Let the whole value be the graph's output, under the name that it had."""
    for place, output in enumerate(list(graph.outputs)):
        if output is value:
            graph.outputs[place] = whole
    whole.type, whole.shape = value.type, value.shape
    value.shape = None
    name, value.name = value.name, f"{value.name}:live"
    whole.name = name


def _node(op_type: str, inputs: list[ir.Value], name: str, **attributes: int) -> ir.Node:
    node = ir.node(op_type, inputs, attributes=attributes, name=name)
    node.outputs[0].name = name
    return node
