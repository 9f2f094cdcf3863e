"""What channels cost: the parameters that hold them, the multiply-accumulates that go with them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.channels.classes import ChannelClass
from onnxadmm.channels.labelling import Labelling
from onnxadmm.graph import Probe

Cost = Callable[[Sequence[int]], int]
"""From the number of channels that each class keeps to what is left."""


def parameters_left(classes: Sequence[ChannelClass], probe: Probe) -> Cost:
    """Return the count of parameters in all tensors that the classes live in, by how many channels each keeps.

    Where two classes cross in one tensor this is the true product, not a sum over channels. Other classes
    count whole.
    """
    tensors: dict[str, list[tuple[int, int, int]]] = {}
    for index, c in enumerate(classes):
        for s in c.slices:
            if not s.unlearnt:
                each = int((s.positions >= 0).sum()) // c.size
                tensors.setdefault(s.tensor, []).append((s.axis, index, each))

    def left(kept: Sequence[int]) -> int:
        total = 0
        for name, places in tensors.items():
            shape = list(probe.shapes[name])
            for axis, index, each in places:
                shape[axis] -= each * (classes[index].size - kept[index])
            total += math.prod(shape)
        return total

    return left


def macs_left(
    model: ir.Model, labelling: Labelling, probe: Probe, classes: Sequence[ChannelClass]
) -> Cost:
    """Return the multiply-accumulates of all operators that hold the classes, by how many channels each keeps.

    Args:
        model: The graph.
        labelling: Its labels.
        probe: Its shapes at batch 1.
        classes: Of the graph's classes those that may lose channels; the others count whole.
    """
    costing = _costing(model, probe)
    index = {c.name: i for i, c in enumerate(classes)}
    places = _places(labelling, classes, {v for node, _, _ in costing for v in _values(node)})
    held = [(node, operator) for node, operator, _ in costing if places.keys() & _values(node)]

    def left(kept: Sequence[int]) -> int:
        total = 0
        for node, operator in held:
            names = _values(node)
            shapes = {name: probe.shapes[name] for name in names}
            for name in names & places.keys():
                shape = list(shapes[name])
                for c, found in places[name].items():
                    gone = classes[index[c]].size - kept[index[c]]
                    for axis, each in found:
                        shape[axis] -= each * gone
                shapes[name] = tuple(shape)
            total += operator.macs(node, shapes)
        return total

    return left


def channel_macs(
    model: ir.Model, labelling: Labelling, probe: Probe, classes: Sequence[ChannelClass]
) -> dict[str, int]:
    """Return, for each class, the multiply-accumulates of one sample that go with one of its channels.

    Every operator that holds the channel is asked for its cost with the channel and without it, so that
    products of two activations count like layers with weights. Two classes that cross in one layer both
    count what they share, as with parameters.

    Args:
        model: The graph.
        labelling: Its labels.
        probe: Its shapes at batch 1.
        classes: Its classes.

    Returns:
        Class name -> macs. Cost: one pass over all labels, and one question for each pair of a class and
        an operator that holds it.
    """
    costing = _costing(model, probe)
    places = _places(labelling, classes, {v for node, _, _ in costing for v in _values(node)})
    macs = dict.fromkeys((c.name for c in classes), 0)
    for node, operator, whole in costing:
        names = _values(node)
        for c in {c for name in names for c in places.get(name, ())}:
            shapes = {name: probe.shapes[name] for name in names}
            for name in names & places.keys():
                for axis, count in places[name].get(c, ()):
                    shape = list(shapes[name])
                    shape[axis] -= count
                    shapes[name] = tuple(shape)
            macs[c] += whole - operator.macs(node, shapes)
    return macs


def weight_macs(model: ir.Model, probe: Probe) -> dict[str, float]:
    """Return, for each weight, the multiply-accumulates of one sample that go with one of its elements.

    A weight of several nodes counts in each. A node's cost is shared evenly by the elements of its weights of two
    and more axes: biases take no product. A node in a subgraph has no cost known here.

    Args:
        model: The graph.
        probe: Its shapes at batch 1.
    """
    layers = ops.layer_weights(model)
    found: dict[str, float] = defaultdict(float)
    for node, _, whole in _costing(model, probe):
        names = layers.get(node.name or node.outputs[0].name or "", [])
        shapes = {n: probe.shapes[n] for n in names if len(probe.shapes.get(n, ())) > 1}
        for name in shapes:
            found[name] += whole / sum(math.prod(s) for s in shapes.values())
    return dict(found)


def _costing(model: ir.Model, probe: Probe) -> list[tuple[ir.Node, ops.Operator, int]]:
    """Return the nodes that cost something, with their operators and costs."""
    opsets = dict(model.opset_imports)
    costing = []
    for node in model.graph:
        operator = ops.find(node, opsets)
        whole = 0 if operator is None else operator.macs(node, probe.shapes)
        if operator is not None and whole:
            costing.append((node, operator, whole))
    return costing


def _values(node: ir.Node) -> set[str]:
    return {v.name for v in (*node.inputs, *node.outputs) if v is not None and v.name}


def _places(
    labelling: Labelling, classes: Sequence[ChannelClass], values: set[str]
) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """Return value -> class -> (axis, how many of its indices are the class's first channel)."""
    first = {int(c.labels[0]): c.name for c in classes}
    wanted = np.array(sorted(first), np.int64)
    places: dict[str, dict[str, list[tuple[int, int]]]] = defaultdict(dict)
    if not wanted.size:
        return places
    for name in sorted(values & labelling.axes.keys()):
        for axis, labels in enumerate(labelling.axes[name]):
            place = np.searchsorted(wanted, labels).clip(max=len(wanted) - 1)
            found, counts = np.unique(labels[wanted[place] == labels], return_counts=True)
            for label, count in zip(found.tolist(), counts.tolist(), strict=True):
                places[name].setdefault(first[label], []).append((axis, count))
    return places
