"""Static int8 as QuantizeLinear/DequantizeLinear pairs, placed where ONNX Runtime fuses them.

The graph stays float to a reader: every quantized tensor is followed by its DequantizeLinear. ONNX Runtime
turns `DequantizeLinear -> Conv -> Relu -> QuantizeLinear` into one integer kernel, and moves data (MaxPool,
Reshape, Flatten, Transpose) without dequantizing when both sides share one scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import SpecError, UnsupportedError, one_line
from onnxadmm.graph import clear_stale, constant_of
from onnxadmm.graph.holding import drop_unread, fresh, hold, value_names
from onnxadmm.ops import origin_of
from onnxadmm.quantize.calibration import Range, observe
from onnxadmm.quantize.ladders import Levels
from onnxadmm.quantize.levels import level_table, nearest_levels, project_levels
from onnxadmm.quantize.placing import (
    CARRIED,
    LAYERS,
    PER_AXIS_SINCE,
    choose,
    name_of,
    placed,
    weight_of,
)
from onnxadmm.spec import Quantize

Array = np.ndarray[Any, Any]

QUANTIZE_LINEAR_SINCE = 10


@dataclass(frozen=True)
class OnLevels:
    """A weight that lies on levels: float32 `codes * scales` is its content, bit for bit.

    Attributes:
        codes: Levels with their signs, float32 in the weight's shape.
        scales: float32; they broadcast to the weight.
    """

    codes: Array
    scales: Array


@dataclass(frozen=True)
class Quantized:
    """A quantized graph.

    Attributes:
        model: The graph with QDQ pairs.
        layers: Names of the nodes whose weights are int8.
        notes: What a person should know: one line each.
        ranges: Of the values that are int8, by name.
    """

    model: ir.Model
    layers: tuple[str, ...]
    notes: tuple[str, ...]
    ranges: Mapping[str, Range]


def require_opset(model: ir.Model) -> int:
    """Return the graph's opset, which has QuantizeLinear.

    Raises:
        UnsupportedError: It hasn't.
    """
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    if opset < QUANTIZE_LINEAR_SINCE:
        raise UnsupportedError(
            f"opset {opset} has no QuantizeLinear (since {QUANTIZE_LINEAR_SINCE}); convert the model to opset "
            f"{PER_AXIS_SINCE} or newer, or drop `quantize`"
        )
    return opset


def quantize(
    model: ir.Model,
    rules: Sequence[tuple[Quantize, set[str]]],
    feeds: Iterable[Mapping[str, Array]],
    trained: Mapping[str, OnLevels] | None = None,
    *,
    ranges: Mapping[str, Range] | None = None,
) -> Quantized:
    """Quantize the layers that the rules name, where they ask for int8 activations.

    Args:
        model: The float graph; it isn't changed.
        rules: The spec's quantize entries, each with the names of the nodes that it matches; the last one
            that names a node holds.
        feeds: Batches of real inputs, to calibrate on.
        trained: Weights that lie on levels by name; others are projected.
        ranges: Those that an earlier call observed, for rules that name no layer more; feeds aren't needed then.

    Raises:
        UnsupportedError: The opset has no QuantizeLinear.
        SpecError: No layer that the rules name has an integer form.
    """
    opset = require_opset(model)
    result = model.clone()
    chosen = choose(result, rules)
    if not chosen:
        raise SpecError(
            "quantize: no layer that it names can be int8 (Conv, Gemm, MatMul with a float32 weight); "
            "choose other layers or drop it"
        )
    notes: list[str] = []
    by_axis = opset >= PER_AXIS_SINCE
    if not by_axis and any(c.rule.weights.granularity == "channel" for c in chosen):
        notes.append(
            f"opset {opset} has no scales by channel (since {PER_AXIS_SINCE}): weights have one scale a tensor"
        )
    trained = straighten(result, [c.node for c in chosen], trained or {})
    writer = _Writer(result, trained, by_axis=by_axis)
    activations = placed(result.graph, chosen)
    if ranges is None:
        ranges = observe(model, activations, feeds)
    for name, how in activations.items():
        writer.pair(name, ranges[name], signed=bool(how.signed))
    writer.carry()
    for c in chosen:
        writer.weight(c.node, c.rule)
    writer.drop_unread()
    clear_stale(result)
    result.graph.sort()
    return Quantized(result, tuple(name_of(c.node) for c in chosen), tuple(notes), ranges)


def straighten(
    model: ir.Model, layers: Sequence[ir.Node], trained: Mapping[str, OnLevels]
) -> dict[str, OnLevels]:
    """Let layers hold weights that they read from behind a Transpose as they read them, in place.

    Integers go straight into the node then: ONNX Runtime fuses no Transpose into an integer kernel.

    Returns:
        `trained`, with the levels of what was turned as well.
    """
    known = dict(trained)
    taken = value_names(model.graph)
    turned: dict[tuple[str, tuple[int, ...]], ir.Value] = {}
    for node in layers:
        port = LAYERS[node.op_type][1]
        value = node.inputs[port]
        origin = origin_of(value)
        if value is None or origin is None or origin.held is value:
            continue
        name = origin.held.name or ""
        key = (name, origin.axes)
        if key not in turned:
            content = weight_of(node, port)
            assert content is not None
            turned[key] = hold(
                model.graph, fresh(f"{name}_t", taken), np.ascontiguousarray(content)
            )
            if name in trained:
                known[turned[key].name or ""] = OnLevels(
                    trained[name].codes.transpose(origin.axes),
                    trained[name].scales.transpose(origin.axes),
                )
        node.replace_input_with(port, turned[key])
        drop_unread(model.graph, [value])
    return known


class _Writer:
    """Adds QDQ pairs and quantized weights to a graph."""

    def __init__(self, model: ir.Model, trained: Mapping[str, OnLevels], *, by_axis: bool) -> None:
        self.graph = model.graph
        self.trained = trained
        self.by_axis = by_axis
        self.grids: dict[str, tuple[ir.Value, ir.Value]] = {}
        self.weights: dict[tuple[str, int | None, bytes], ir.Value] = {}
        self.scales: dict[tuple[str, int | None, bytes], Array] = {}
        self.taken = value_names(self.graph)
        self.node_names = {n.name for n in self.graph}
        self.held: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    # --- activations

    def pair(self, name: str, observed: Range, *, signed: bool) -> None:
        """Quantize a tensor for everybody who reads it."""
        value = self._find(name)
        scale, zero = observed.quantized(signed)
        grid = (self._hold(f"{name}_scale", np.array(scale)), self._hold(f"{name}_zero", zero))
        self._insert(value, grid)

    def carry(self) -> None:
        """Let what only moves data hand quantized values on, with the scale that they came with."""
        for node in list(self.graph):
            source = node.inputs[0] if node.inputs else None
            origin = source.producer() if source is not None else None
            if (
                node.op_type not in CARRIED
                or origin is None
                or origin.op_type != "DequantizeLinear"
            ):
                continue
            output = node.outputs[0]
            if len(node.outputs) > 1 or output.is_graph_output():
                continue
            readers = [n for n, _ in output.uses()]
            grid = self.grids.get(origin.outputs[0].name or "")
            if grid is None:
                continue
            if readers and all(n.op_type == "QuantizeLinear" for n in readers):
                # It was observed on its own; the range of what it carries serves both sides.
                for reader in readers:
                    for follower, _ in list(reader.outputs[0].uses()):
                        follower.replace_input_with(1, grid[0])
                        follower.replace_input_with(2, grid[1])
                        self.grids[follower.outputs[0].name or ""] = grid
                    reader.replace_input_with(1, grid[0])
                    reader.replace_input_with(2, grid[1])
            else:
                self._insert(output, grid)

    def _insert(self, value: ir.Value, grid: tuple[ir.Value, ir.Value]) -> None:
        uses = list(value.uses())
        quantized = self._node("QuantizeLinear", [value, *grid], f"{value.name}_q")
        restored = self._node("DequantizeLinear", [quantized, *grid], f"{value.name}_dq")
        for node, port in uses:
            node.replace_input_with(port, restored)
        self.grids[restored.name or ""] = grid

    # --- weights

    def weight(self, node: ir.Node, rule: Quantize) -> None:
        """Store the node's weight as int8 and its bias as int32, on the grid of input times weight."""
        _, port, bias_port = LAYERS[node.op_type]
        value = node.inputs[port]
        assert value is not None
        axis = (
            _channel_axis(node) if self.by_axis and rule.weights.granularity == "channel" else None
        )
        bias = (
            node.inputs[bias_port]
            if bias_port is not None and len(node.inputs) > bias_port
            else None
        )
        content = constant_of(bias)
        source = node.inputs[0]
        grid = self.grids.get(source.name or "") if source is not None else None
        least, input_scale = np.array(0.0), None
        if bias is not None and content is not None and grid is not None:
            input_scale = constant_of(grid[0])
            assert input_scale is not None
            least = _least_scales(content, input_scale, axis)
        restored, scales = self._quantized_weight(value, axis, rule, least)
        node.replace_input_with(port, restored)
        if input_scale is not None and bias_port is not None and content is not None:
            self._quantize_bias(node, bias_port, content, input_scale * scales)
        drop_unread(self.graph, [value])
        if bias is not None:
            drop_unread(self.graph, [bias])

    def _quantized_weight(
        self, value: ir.Value, axis: int | None, rule: Quantize, least: Array
    ) -> tuple[ir.Value, Array]:
        """Return the dequantized weight and its scales, none of them below `least`.

        Nodes that share a weight share its quantized form, where their biases ask for the same.
        """
        content = constant_of(value)
        assert content is not None
        moved = content.reshape(1, -1) if axis is None else np.moveaxis(content, axis, 0)
        rows = moved.reshape(len(moved), -1)
        table = level_table(rule.weights)
        levels, scales = self._on_levels(value.name or "", content, axis, rows, table)
        floor = np.broadcast_to(least, scales.shape).astype(np.float32)
        small = scales < floor
        key = (value.name or "", axis, np.where(small, floor, 0).tobytes())
        if key in self.weights:
            return self.weights[key], self.scales[key]
        if small.any():
            scales = np.maximum(scales, floor)
            levels = nearest_levels(rows, scales, table)
        levels = levels.astype(np.int8)
        if axis is None:
            levels, scales = levels.reshape(content.shape), scales.reshape(())
        else:
            levels = np.moveaxis(levels.reshape(moved.shape), 0, axis)
        stored = self._hold(f"{value.name}_q", np.ascontiguousarray(levels))
        scale = self._hold(f"{value.name}_scale", scales)
        zero = self._hold(f"{value.name}_zero", np.zeros(scales.shape, np.int8))
        restored = self._node("DequantizeLinear", [stored, scale, zero], f"{value.name}_dq", axis)
        self.weights[key], self.scales[key] = restored, scales
        return restored, scales

    def _on_levels(
        self, name: str, content: Array, axis: int | None, rows: Array, table: Levels
    ) -> tuple[Array, Array]:
        """Return the levels [R, C] and positive float32 scales [R] of a weight: trained ones, or the closest."""
        known = self.trained.get(name)
        if (
            known is not None
            and known.scales.size == len(rows)
            and known.codes.shape == content.shape
            and np.array_equal(known.codes * known.scales, content)
        ):
            levels = known.codes if axis is None else np.moveaxis(known.codes, axis, 0)
            levels, scales = levels.reshape(len(rows), -1), known.scales.reshape(-1)
        else:
            levels, exact = project_levels(rows, table, rows != 0)
            scales = exact.astype(np.float32)
        # A row of zeros has no scale, and one of denormal numbers none that a float32 could divide by.
        none = scales < np.finfo(np.float32).tiny
        return np.where(none[:, None], 0, levels), np.where(none, np.float32(1), scales)

    def _quantize_bias(self, node: ir.Node, port: int, content: Array, scales: Array) -> None:
        limits = np.iinfo(np.int32)
        levels = np.clip(np.rint(content.astype(np.float64) / scales), limits.min, limits.max)
        name = node.inputs[port].name if node.inputs[port] is not None else "bias"  # type: ignore[union-attr]
        stored = self._hold(f"{name}_q", levels.astype(np.int32))
        scale = self._hold(f"{name}_scale", np.asarray(scales, np.float32))
        axis = 0 if np.ndim(scales) else None
        node.replace_input_with(
            port, self._node("DequantizeLinear", [stored, scale], f"{name}_dq", axis)
        )

    # --- the graph

    def _find(self, name: str) -> ir.Value:
        for value in self.graph.inputs:
            if value.name == name:
                return value
        for node in self.graph:
            for value in node.outputs:
                if value.name == name:
                    return value
        raise ValueError(f"no value {one_line(name, 60)!r}")

    def _node(
        self, op_type: str, inputs: Sequence[ir.Value], output: str, axis: int | None = None
    ) -> ir.Value:
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        node = ir.Node(
            "", op_type, inputs, attributes=attributes, name=fresh(output, self.node_names)
        )
        self.graph.append(node)
        node.outputs[0].name = fresh(output, self.taken)
        return node.outputs[0]

    def _hold(self, name: str, content: Array) -> ir.Value:
        """Add an initializer; equal contents are held once."""
        content = np.asarray(content)
        key = (content.dtype.str, content.shape, content.tobytes())
        if key not in self.held:
            self.held[key] = hold(self.graph, fresh(name, self.taken), content)
        return self.held[key]

    def drop_unread(self) -> None:
        """Remove scales and zero points whose readers took over another grid."""
        drop_unread(self.graph, self.held.values())


def _least_scales(bias: Array, input_scale: Array, axis: int | None) -> Array:
    """Return the smallest scales of a weight whose bias fits into int32 on input scale times weight scale.

    A filter whose weights all but vanished would otherwise lose its bias.
    """
    size = np.abs(bias.astype(np.float64))
    # 2^30: the scale is rounded to float32 before the bias is divided by it.
    return np.asarray(size if axis is not None else size.max()) / (float(input_scale) * 2**30)


def _channel_axis(node: ir.Node) -> int:
    """Return the weight's axis of output channels."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        trans_b = node.attributes.get("transB")
        return 0 if trans_b is not None and trans_b.as_int() else 1
    return 1
