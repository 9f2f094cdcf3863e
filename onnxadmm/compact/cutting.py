"""Decisions into the graph: mask every slice of the dead channels, or cut them out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.channels import Labelling
from onnxadmm.compact.guarding import guard_poles
from onnxadmm.compact.masks import alive_mask
from onnxadmm.compact.shapes import record_shapes, recorded_shapes, shapes_after
from onnxadmm.graph import Probe, clear_stale, constant_of
from onnxadmm.graph.constants import set_constant

Array = np.ndarray[Any, Any]


def mask_channels(model: ir.Model, labelling: Labelling, dead: Iterable[int]) -> ir.Model:
    """Return a copy of the model with every slice of the dead channels set to zero.

    What isn't finite at zero is kept from spreading (see `onnxadmm.compact.guarding`).

    Args:
        model: The graph that was labelled.
        labelling: Its labels.
        dead: The labels that go.
    """
    masked = model.clone()
    gone = np.array(sorted(dead), np.int64)
    for value in _carriers(masked, labelling):
        content = np.array(constant_of(value))
        content *= alive_mask(labelling.axes[value.name or ""], gone)
        set_constant(value, content)
    guard_poles(masked, labelling, gone)
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
            whole = np.zeros_like(old)
            whole[alive_mask(labelling.axes[value.name or ""], gone)] = content.reshape(-1)
            set_constant(value, whole)
        elif content.shape == old.shape and content.dtype.kind == "f":
            set_constant(value, content)
    guard_poles(masked, labelling, gone)
    return masked


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
    scope = _Scope(cut, labelling, probe, dead)
    if not scope.gone.size:
        return cut
    left = surviving(cut, labelling, dead)
    for value in _carriers(cut, labelling):
        set_constant(value, left[value.name or ""])
    opsets = dict(cut.opset_imports)
    for node in list(cut.graph):
        operator = ops.find(node, opsets)
        if operator is not None:
            operator.resize(node, scope)
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
    for value in _carriers(model, labelling):
        content, name = constant_of(value), value.name or ""
        if content is None or content.shape != tuple(map(len, labelling.axes[name])):
            continue  # folding gave it another shape
        for axis, labels in enumerate(labelling.axes[name]):
            stays = ~np.isin(labels, gone)
            if not stays.all():
                content = np.compress(stays, content, axis=axis)
        left[name] = content
    return left


def _carriers(model: ir.Model, labelling: Labelling) -> list[ir.Value]:
    """Return the held tensors that carry labels."""
    carrying = set(labelling.weights)
    return [v for v in ops.held_tensors(model) if v.name in carrying]


class _Scope:
    """What resize rules may ask (`ops.CutScope`)."""

    def __init__(
        self, model: ir.Model, labelling: Labelling, probe: Probe, dead: Iterable[int]
    ) -> None:
        self.gone = np.array(sorted(dead), np.int64)
        self._model = model
        self._axes = labelling.axes
        self._probe = probe
        self._replaced: list[ir.Value] = []

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        return self._probe.shapes[value.name or ""]

    def alive(self, value: ir.Value, axis: int) -> Array:
        labels = self._axes.get(value.name or "")
        if labels is None:
            return np.ones(self.shape(value)[axis], bool)
        return ~np.isin(labels[axis], self.gone)

    def kept(self, value: ir.Value, axis: int) -> int:
        return int(self.alive(value, axis).sum())

    def is_cut(self, value: ir.Value, axis: int) -> bool:
        return self.kept(value, axis) != self.shape(value)[axis]

    def constant(self, value: ir.Value | None) -> Array | None:
        return constant_of(value)

    def replace_constant(self, node: ir.Node, port: int, content: Array) -> None:
        """Give the node a constant of its own: others may read the one that it had."""
        old = node.inputs[port] if port < len(node.inputs) else None
        taken = {
            v.name for n in self._model.graph for v in (*n.inputs, *n.outputs) if v is not None
        }
        taken |= set(self._model.graph.initializers)
        base = (old.name if old is not None else f"{node.outputs[0].name}_size") or "size"
        name = next(c for c in _candidates(base) if c not in taken)
        tensor = ir.tensor(content, name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(content.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self._model.graph.register_initializer(value)
        if port >= len(node.inputs):
            node.resize_inputs(port + 1)
        node.replace_input_with(port, value)
        if old is not None:
            self._replaced.append(old)

    def drop_unread(self) -> None:
        """Remove constants that were replaced and that nobody reads any more, and what computed them."""
        while self._replaced:
            value = self._replaced.pop()
            if list(value.uses()) or value.is_graph_output() or value.is_graph_input():
                continue
            node = value.producer()
            if node is None:
                self._model.graph.initializers.pop(value.name or "", None)
            elif node.graph is not None and not any(
                list(v.uses()) or v.is_graph_output() for v in node.outputs
            ):
                self._replaced += [v for v in node.inputs if v is not None]
                node.graph.remove(node, safe=True)


def _candidates(base: str) -> Iterable[str]:
    n = 2
    while True:
        yield f"{base}_{n}"
        n += 1
