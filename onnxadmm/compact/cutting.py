"""Cutting: the graph without its dead channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.channels import Labelling
from onnxadmm.channels.labelling import is_settled
from onnxadmm.channels.shuffles import Shuffle
from onnxadmm.compact.masks import among
from onnxadmm.compact.shapes import record_shapes, recorded_shapes, shapes_after
from onnxadmm.graph import Probe, clear_stale, constant_of
from onnxadmm.graph.constants import set_constant
from onnxadmm.graph.holding import drop_unread, fresh, hold, value_names

Array = np.ndarray[Any, Any]


def cut_channels(
    model: ir.Model, labelling: Labelling, probe: Probe, dead: Iterable[int]
) -> ir.Model:
    """Return a copy of the model without the dead channels.

    Every tensor that carries a dead label loses that index, constants and attributes that held sizes are
    mended by the operators' resize rules, and shapes recorded along the way follow. Names, opset, metadata
    and the interface stay.

    Args:
        model: The graph that was labelled.
        labelling: Its labels.
        probe: Its shapes before the cut.
        dead: The labels that go.
    """
    cut, dead = model.clone(), set(dead)
    scope = Surgery(cut, labelling, probe.shapes, dead)
    if not scope.gone.size:
        return cut
    left = surviving(cut, labelling, dead)
    for value in carriers(cut, labelling):
        set_constant(value, left[value.name or ""])
    opsets = dict(cut.opset_imports)
    for node in list(cut.graph):
        scope.enter(node)
        shuffle = labelling.shuffles.get(node.outputs[0].name or "") if node.outputs else None
        if shuffle is not None:
            scope.shuffle(node, shuffle)
            continue
        operator = ops.find(node, opsets)
        if operator is not None:
            operator.resize(node, scope)
        scope.shorten_inputs(node)
    scope.drop_unread()
    recorded = recorded_shapes(model)
    clear_stale(cut)
    record_shapes(cut, recorded, probe.shapes, shapes_after(labelling, probe.shapes, dead))
    return cut


def surviving(model: ir.Model, labelling: Labelling, dead: Iterable[int]) -> dict[str, Array]:
    """Return what a cut leaves of each held tensor that carries labels, by name.

    Args:
        model: The graph that was labelled, or one with the same tensors in other types.
        labelling: Its labels.
        dead: The labels that go.
    """
    gone = np.array(sorted(dead), np.int64)
    left: dict[str, Array] = {}
    for value in carriers(model, labelling):
        content, name = constant_of(value), value.name or ""
        if content is None or content.shape != tuple(map(len, labelling.axes[name])):
            continue  # folding gave it another shape
        for axis, labels in enumerate(labelling.axes[name]):
            stays = np.flatnonzero(~among(labels, gone))
            if len(stays) < len(labels):
                content = _taken(content, axis, stays)
        left[name] = content
    return left


def _taken(content: Array, axis: int, places: Array) -> Array:
    """Return the content at ascending places of an axis: a view where they are neighbours."""
    first = int(places[0]) if len(places) else 0
    if len(places) and int(places[-1]) - first + 1 == len(places):
        return content[(slice(None),) * axis + (slice(first, first + len(places)),)]
    return content.take(places, axis)


def carriers(model: ir.Model, labelling: Labelling) -> list[ir.Value]:
    """Return the held tensors that carry labels."""
    carrying = set(labelling.weights)
    return [v for v in ops.held_tensors(model) if v.name in carrying]


class Surgery:
    """What resize rules may ask (`ops.CutScope`)."""

    def __init__(
        self,
        model: ir.Model,
        labelling: Labelling,
        shapes: Mapping[str, tuple[int, ...]],
        dead: Iterable[int],
    ) -> None:
        self.gone = np.array(sorted(dead), np.int64)
        self._model = model
        self._axes = dict(labelling.axes)
        self._uses = labelling.uses
        self._loose, self._settled = labelling.loose, labelling.settled
        self._used: Mapping[str, list[Array]] = {}
        self._shapes = shapes
        self._replaced: list[ir.Value] = []
        self._taken: set[str | None] | None = None

    def opset(self) -> int:
        """Return the version of the standard's operators."""
        imports = self._model.opset_imports
        return imports.get("", imports.get("ai.onnx", 1))

    def enter(self, node: ir.Node) -> None:
        """Answer for this node from now on: some labels hold for one reader alone."""
        key = next((v.name for v in node.outputs if v.name), "")
        self._used = self._uses.get(key, {})

    def shorten_inputs(self, node: ir.Node) -> None:
        """Let the node read fewer of what is all alike, where it needs fewer."""
        for port, value in enumerate(node.inputs):
            if value is None or value.name not in self._used:
                continue
            for axis in range(len(self.labels(value))):
                if self.is_cut(value, axis):
                    self._shorten(node, port, axis, self.kept(value, axis))

    def _shorten(self, node: ir.Node, port: int, axis: int, count: int) -> None:
        graph, value = node.graph, node.inputs[port]
        assert isinstance(graph, ir.Graph)
        assert value is not None
        name = f"{node.outputs[0].name}:{port}:{axis}"
        places = hold(graph, f"{name}:places", np.arange(count))
        gather = ir.node("Gather", [value, places], {"axis": axis}, name=name)
        gather.outputs[0].name = name
        gather.outputs[0].type = value.type
        graph.insert_before(node, gather)
        node.replace_input_with(port, gather.outputs[0])

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Return the shape before the cut."""
        labels = self._known(value)
        return self._shapes[value.name or ""] if labels is None else tuple(map(len, labels))

    def alive(self, value: ir.Value, axis: int) -> Array:
        """Return for each index of an axis before the cut whether it stays."""
        labels = self._known(value)
        if labels is None:
            return np.ones(self.shape(value)[axis], bool)
        return ~among(labels[axis], self.gone)

    def labels(self, value: ir.Value) -> list[Array]:
        """Return the labels of each axis; none where nothing is known of the value."""
        return self._known(value) or []

    def settled(self, value: ir.Value, axis: int) -> bool:
        """Return whether the axis had the same length in every run."""
        labels, name = self.labels(value), value.name or ""
        if axis in self._settled.get(name, ()):
            return True
        return bool(labels) and is_settled(labels[axis], axis, self._loose.get(name, ()))

    def _known(self, value: ir.Value) -> list[Array] | None:
        name = value.name or ""
        return self._used.get(name, self._axes.get(name))

    def kept(self, value: ir.Value, axis: int) -> int:
        """Return how many indices of an axis stay."""
        return int(self.alive(value, axis).sum())

    def is_cut(self, value: ir.Value, axis: int) -> bool:
        """Return whether any index of an axis goes."""
        return self.kept(value, axis) != self.shape(value)[axis]

    def constant(self, value: ir.Value | None) -> Array | None:
        """Return what the graph holds."""
        return constant_of(value)

    def write_numbers(self, node: ir.Node, port: int, numbers: Mapping[int, int]) -> None:
        """Let the node read these numbers at these places of an input [n], and the rest as it was."""
        graph, value = node.graph, node.inputs[port]
        assert isinstance(graph, ir.Graph)
        assert value is not None
        held = constant_of(value)
        content = np.zeros(self.shape(value), np.int64) if held is None else held.copy()
        places = list(numbers)
        content[places] = list(numbers.values())
        if held is not None:
            self.replace_constant(node, port, content)
            return
        name = f"{node.outputs[0].name}:size"
        joined = self._joined(value, numbers)
        if joined is not None:
            if len(list(value.uses())) > 1 or value.is_graph_output():
                joined = ir.node("Concat", list(joined.inputs), {"axis": 0}, name=name)
                joined.outputs[0].name = name
                graph.insert_before(node, joined)
                node.replace_input_with(port, joined.outputs[0])
            for place, operand in self._operands(joined):
                if place in numbers:
                    self.replace_constant(joined, operand, content[place : place + 1])
            return
        other = np.ones(len(content), bool)
        other[places] = False
        addend = hold(graph, f"{name}:numbers", content)
        if self.opset() < ops.WHERE_SINCE:
            factor = hold(graph, f"{name}:computed", other.astype(np.int64))
            rest = ir.node("Mul", [value, factor], name=f"{name}:rest")
            rest.outputs[0].name = rest.name
            graph.insert_before(node, rest)
            mended = ir.node("Add", [rest.outputs[0], addend], name=name)
        else:
            kept = hold(graph, f"{name}:computed", other)
            mended = ir.node("Where", [kept, value, addend], name=name)
        mended.outputs[0].name = name
        graph.insert_before(node, mended)
        node.replace_input_with(port, mended.outputs[0])

    def _joined(self, value: ir.Value, numbers: Mapping[int, int]) -> ir.Node | None:
        """Return the Concat that makes a shape, if each of these places is an input of its own."""
        node = value.producer()
        if node is None or node.op_type != "Concat" or node.domain not in ("", "ai.onnx"):
            return None
        return node if numbers.keys() <= {place for place, _ in self._operands(node)} else None

    def _operands(self, joined: ir.Node) -> list[tuple[int, int]]:
        """Return the place and the port of each input of one element."""
        found, place = [], 0
        for port, value in enumerate(joined.inputs):
            assert value is not None
            (count,) = self.shape(value)
            if count == 1:
                found.append((place, port))
            place += count
        return found

    def replace_constant(self, node: ir.Node, port: int, content: Array) -> None:
        """Give the node a constant of its own: others may read the one that it had."""
        old = node.inputs[port] if port < len(node.inputs) else None
        if self._taken is None:
            self._taken = value_names(self._model.graph)
        base = (old.name if old is not None else f"{node.outputs[0].name}_size") or "size"
        value = hold(self._model.graph, fresh(base, self._taken), content)
        if port >= len(node.inputs):
            node.resize_inputs(port + 1)
        node.replace_input_with(port, value)
        if old is not None:
            self._replaced.append(old)

    def shuffle(self, last: ir.Node, shuffle: Shuffle) -> None:
        """Let a Gather in the new order take the place of a shuffle that lost channels."""
        result = last.outputs[0]
        if not self.is_cut(result, shuffle.axis):
            return
        turn = last.inputs[0].producer() if last.inputs[0] is not None else None
        split = turn.inputs[0].producer() if turn is not None and turn.inputs[0] else None
        assert isinstance(last.graph, ir.Graph)
        assert split is not None
        assert split.inputs[0] is not None
        stays = ~among(self._axes[shuffle.source.name or ""][shuffle.axis], self.gone)
        places = np.cumsum(stays) - 1
        order = places[shuffle.order[stays[shuffle.order]]]
        held = hold(last.graph, f"{result.name}:order", order)
        gather = ir.node("Gather", [split.inputs[0], held], {"axis": shuffle.axis}, name=last.name)
        last.graph.insert_after(last, gather)
        new, name = gather.outputs[0], result.name
        result.replace_all_uses_with(new)
        self._replaced.append(result)
        result.name, new.name = f"{name}:shuffled", name
        new.type = result.type

    def rename(self, old: ir.Value, new: ir.Value) -> None:
        """Let `new` stand for what `old` stood for before the cut."""
        self._axes[new.name or ""] = self._axes[old.name or ""]

    def drop_unread(self) -> None:
        """Remove constants that nobody reads, replaced or never read, and what computed the replaced ones."""
        graph = self._model.graph
        drop_unread(graph, [*self._replaced, *graph.initializers.values()])
