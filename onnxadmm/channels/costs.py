"""What a channel costs to compute: the multiply-accumulates that go with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.channels.classes import ChannelClass
from onnxadmm.channels.labelling import Labelling
from onnxadmm.graph import Probe


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
    opsets = dict(model.opset_imports)
    costing = []
    for node in model.graph:
        operator = ops.find(node, opsets)
        whole = 0 if operator is None else operator.macs(node, probe.shapes)
        if operator is not None and whole:
            costing.append((node, operator, whole))
    values = {
        v.name for node, _, _ in costing for v in (*node.inputs, *node.outputs) if v is not None
    }
    places = _places(labelling, classes, {v for v in values if v})
    macs = dict.fromkeys((c.name for c in classes), 0)
    for node, operator, whole in costing:
        names = {v.name for v in (*node.inputs, *node.outputs) if v is not None and v.name}
        for c in {c for name in names for c in places.get(name, ())}:
            shapes = {name: probe.shapes[name] for name in names}
            for name in names & places.keys():
                for axis, count in places[name].get(c, ()):
                    shape = list(shapes[name])
                    shape[axis] -= count
                    shapes[name] = tuple(shape)
            macs[c] += whole - operator.macs(node, shapes)
    return macs


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
