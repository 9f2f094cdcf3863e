"""Weights on levels as integers behind a DequantizeLinear, where activations stay float."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.graph import clear_stale, constant_of
from onnxadmm.graph.holding import drop_unread, fresh, hold, value_names
from onnxadmm.quantize.placing import PER_AXIS_SINCE
from onnxadmm.quantize.qdq import QUANTIZE_LINEAR_SINCE, OnLevels

Array = np.ndarray[Any, Any]

FOUR_BITS_SINCE = 21
"""The opset whose DequantizeLinear reads 4 bits."""
FOUR_BITS_SINCE_IR = 10
NODE_BYTES = 150
"""About what the node and the names take in the file."""
LARGEST_INT4, LARGEST_INT8 = 7, 127


def store_levels(model: ir.Model, trained: Mapping[str, OnLevels]) -> tuple[ir.Model, list[str]]:
    """Return the graph with its weights on levels as INT4 or INT8, each behind a DequantizeLinear.

    What the graph computes is the same to the last bit. A weight that is held otherwise by now, whose levels go
    beyond 127, or that takes fewer bytes as it is stays so.

    Args:
        model: The graph; it isn't changed.
        trained: Weights that lie on levels, by name.

    Returns:
        The graph, and the names of the weights; the graph itself and none where nothing was stored.
    """
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    result = model.clone()
    held = ops.held(result)
    taken, node_names = value_names(result.graph), {n.name for n in result.graph}
    four_bits = opset >= FOUR_BITS_SINCE and model.ir_version >= FOUR_BITS_SINCE_IR
    nodes: list[ir.Node] = []
    stored = []
    for name, value in held.items():
        levels, content = trained.get(name), constant_of(value)
        if levels is None or content is None or not _is_of(result.graph, value):
            continue
        axis = _axis(levels.scales)
        if opset < (QUANTIZE_LINEAR_SINCE if axis is None else PER_AXIS_SINCE):
            continue
        codes = _codes(levels, content, four_bits=four_bits)
        if codes is None or _bytes(codes) + levels.scales.nbytes + NODE_BYTES > content.nbytes:
            continue
        scales = levels.scales.reshape(() if axis is None else -1)
        readers = list(value.uses())
        inputs = [hold(result.graph, fresh(f"{name}_q", taken), codes)]
        inputs.append(hold(result.graph, fresh(f"{name}_scale", taken), scales))
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        node = ir.Node(
            "", "DequantizeLinear", inputs, attributes, name=fresh(f"{name}_dq", node_names)
        )
        node.outputs[0].name = fresh(f"{name}_dq", taken)
        for reader, port in readers:
            reader.replace_input_with(port, node.outputs[0])
        drop_unread(result.graph, [value])
        nodes.append(node)
        stored.append(name)
    if not stored:
        return model, []
    result.graph.insert_before(next(iter(result.graph)), nodes)
    clear_stale(result)
    return result, stored


def _axis(scales: Array) -> int | None:
    """Return the axis along which scales differ; None for one scale."""
    wide = [axis for axis, size in enumerate(scales.shape) if size > 1]
    return wide[0] if wide else None


def _is_of(graph: ir.Graph, value: ir.Value) -> bool:
    """Whether a graph itself holds a value that only its nodes read."""
    node = value.producer()
    own = (value.name or "") in graph.initializers if node is None else node.graph is graph
    return own and not value.is_graph_output() and not value.is_graph_input()


def _bytes(codes: Array) -> int:
    return codes.nbytes if codes.dtype == np.int8 else -(-codes.size // 2)


def _codes(levels: OnLevels, content: Array, *, four_bits: bool) -> Array | None:
    """Return the levels as integers where those with their scales are the content to the last bit."""
    if levels.codes.shape != content.shape or content.dtype != np.float32:
        return None
    whole: Array = np.clip(levels.codes, -LARGEST_INT8, LARGEST_INT8).astype(np.int8)
    if not np.array_equal(whole.astype(np.float32) * levels.scales, content):
        return None
    small = four_bits and int(np.abs(whole).max(initial=0)) <= LARGEST_INT4
    return whole.astype(ml_dtypes.int4) if small else whole
