"""Kernels that need fewer positions than they have: rows and columns that are empty over a whole layer.

A convolution whose kernel is zero in its first row, over all filters and channels, computes the same without
that row and with one row of padding less in front. Positions carry labels as channels do, so that cropping
is a cut like any other: it is decided here, done by the operators' resize rules, and proven with the rest.
Source: arXiv 1804.03294, section 4 (shape-wise sparsity); the arithmetic of pads is the standard's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.channels import Labelling
from onnxadmm.compact.masks import alive_mask
from onnxadmm.graph import Probe, constant_of
from onnxadmm.ops import Window, kernel_window

Array = np.ndarray[Any, Any]


def empty_positions(
    model: ir.Model, labelling: Labelling, probe: Probe, dead: Iterable[int]
) -> set[int]:
    """Return the labels of kernel positions that can go without changing what the model computes.

    A row or column of a Conv's or ConvTranspose's kernel goes when it is zero over all filters and channels
    that stay, and either lies at an end where the padding can shrink by as much (pads can't become
    negative), or leaves positions at equal distances, which a dilation reaches. One position always stays.

    Args:
        model: The graph with its final weights.
        labelling: Its labels.
        probe: Its shapes.
        dead: The channels that go.
    """
    gone = np.array(sorted(dead), np.int64)
    once = Counter[int]()
    for name in labelling.weights:
        for labels in labelling.axes[name]:
            once.update(set(labels.tolist()))
    positions: set[int] = set()
    for value in ops.held_tensors(model):
        name = value.name or ""
        users = [(node, port) for node, port in value.uses()]
        if name not in labelling.axes or not users or not all(_croppable(*u) for u in users):
            continue
        content = constant_of(value)
        if content is None or value.is_graph_input() or value.is_graph_output():
            continue
        used = (content != 0) & alive_mask(labelling.axes[name], gone)
        for axis in range(2, content.ndim):
            labels = labelling.axes[name][axis]
            if not labels.all() or any(once[label] != 1 for label in labels.tolist()):
                continue
            wanted = np.flatnonzero(used.any(axis=tuple(a for a in range(used.ndim) if a != axis)))
            stays = _stays(wanted, content.shape[axis], axis - 2, [n for n, _ in users], probe)
            positions.update(np.delete(labels, stays).tolist())
    return positions


def _croppable(node: ir.Node, port: int) -> bool:
    return (
        node.domain in ("", "ai.onnx") and node.op_type in ("Conv", "ConvTranspose") and port == 1
    )


def _stays(wanted: Array, size: int, spatial: int, nodes: list[ir.Node], probe: Probe) -> list[int]:
    """Return the positions of one kernel axis that stay, in every layer that shares the kernel.

    Args:
        wanted: The positions that aren't empty.
        size: How many positions there are.
        spatial: Which spatial axis.
        nodes: The layers.
        probe: Shapes.
    """
    everything = list(range(size))
    if not wanted.size:
        return everything
    low, high = int(wanted[0]), int(wanted[-1])
    first, last = low, high
    for node in nodes:
        window = _fixed_window(node, spatial, probe)
        if window is None:
            return everything
        step = window.dilations[spatial]
        first = min(first, window.before[spatial] // step)
        last = max(last, size - 1 - window.after[spatial] // step)
    if (first, last) != (low, high):
        return everything[first : last + 1]
    gap = math.gcd(*np.diff(wanted).tolist()) or 1
    return list(range(first, last + 1, gap))


def _fixed_window(node: ir.Node, spatial: int, probe: Probe) -> Window | None:
    """Return the layer's window, or None where its pads depend on the input's size."""
    x = node.inputs[0]
    assert x is not None
    window = kernel_window(node, probe.shapes)
    auto = str(node.attributes["auto_pad"].value) if "auto_pad" in node.attributes else "NOTSET"
    if not auto.startswith("SAME"):
        return None if "output_shape" in node.attributes else window
    if node.op_type != "Conv":
        return None
    size = None if x.shape is None else x.shape[2 + spatial]
    # With a stride, SAME pads by what the size leaves over.
    return (
        window
        if size == probe.shapes[x.name or ""][2 + spatial] or window.strides[spatial] == 1
        else None
    )
