"""Channels whose value is the same number whatever the model is fed with.

A filter of zeros makes its bias, a BatchNormalization shifts that, an activation bends it. Followed node by
node, for the operators below; elsewhere nothing is known, which is always safe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.channels import Labelling
from onnxadmm.graph import Probe, constant_of

Array = np.ndarray[Any, Any]
Known = dict[str, dict[int, float]]
"""Value -> label -> the number that the channel holds at every position and for every input."""

POINTWISE = frozenset(
    {
        "Abs",
        "Add",
        "Celu",
        "Clip",
        "Div",
        "Dropout",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Max",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "PRelu",
        "Pow",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Sub",
        "Sum",
        "Swish",
        "Tanh",
        "ThresholdedRelu",
    }
)
"""One element of each input makes one of the output."""
MOVING = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
"""Elements go elsewhere and stay what they are."""
POOLING = frozenset(
    {"GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean", "ReduceMin"}
)
"""Of equal elements these make the same element."""
ZERO_KEEPING = frozenset({"AveragePool", "Pad", "Resize", "Upsample"})
"""These may mix in zeros: only a channel of zeros stays what it is."""
# Elements that are looked at together.
_BLOCK = 1 << 20
# Inputs that hold a setting rather than elements.
_SETTINGS = {"Clip": (1, 2), "Dropout": (1, 2)}


def is_standard(node: ir.Node) -> bool:
    """Whether ONNX itself defines the operator."""
    return node.domain in ("", "ai.onnx")


def labels_of(labelling: Labelling, value: ir.Value | None) -> set[int]:
    """Return the labels that a value carries on any axis."""
    axes = labelling.axes.get(value.name or "", []) if value is not None else []
    return {int(x) for labels in axes for x in np.unique(labels)} - {0}


def content_of(value: ir.Value | None, weights: Mapping[str, Array]) -> Array | None:
    """Return what a value holds where it is a held tensor, its axes in another order at most.

    Args:
        value: Say, a layer's weight, which a TensorFlow model turns around first.
        weights: Content of held tensors where it differs from the graph's.
    """
    origin = ops.origin_of(value)
    if origin is None or not origin.same_type:
        return None
    held = weights.get(origin.held.name or "", constant_of(origin.held))
    return None if held is None else held.transpose(origin.axes)


def constant_channels(
    model: ir.Model, labelling: Labelling, probe: Probe, weights: Mapping[str, Array]
) -> Known:
    """Return the channels that hold one number, value by value.

    Args:
        model: The graph.
        labelling: Its labels.
        probe: Its shapes.
        weights: Content of held tensors where it differs from the graph's: dead channels set to zero.
    """
    walk = _Walk(model, labelling, probe, weights)
    for node in model.graph:
        walk.visit(node)
    return walk.known


def contributions(columns: Array, numbers: Array, *, bordered: bool) -> Iterator[Array]:
    """Yield what each input channel adds to each output channel, some outputs after the other.

    All at once would be several times the weights in float64.

    Args:
        columns: Weights [outputs, inputs, positions].
        numbers: What each input channel of a group holds [groups, inputs], NaN for unknown; the groups share the
            outputs evenly.
        bordered: Whether some outputs see zeros of a padding instead of the channel.

    Yields:
        Numbers [some outputs, inputs]; NaN where it isn't one number.
    """
    if bordered:
        numbers = np.where(numbers == 0, 0.0, np.nan)
    each = len(columns) // len(numbers)
    step = max(1, _BLOCK // max(1, columns.shape[1]))
    for group, held in enumerate(numbers):
        for start in range(group * each, (group + 1) * each, step):
            block = columns[start : min(start + step, (group + 1) * each)]
            with np.errstate(invalid="ignore"):
                amounts = held * block.sum(axis=2, dtype=np.float64)
            yield np.where(block.any(axis=2), amounts, 0.0)


def total_contributions(columns: Array, numbers: Array, *, bordered: bool) -> Array:
    """Return what all input channels add to each output channel together [outputs]; see `contributions`."""
    parts = contributions(columns, numbers, bordered=bordered)
    return np.concatenate([np.zeros(0), *(part.sum(axis=1) for part in parts)])


class _Walk:
    """The forward walk over the graph."""

    def __init__(
        self, model: ir.Model, labelling: Labelling, probe: Probe, weights: Mapping[str, Array]
    ) -> None:
        self.known: Known = {}
        self._labelling = labelling
        self._probe = probe
        self._weights = weights
        self._opset = model.opset_imports.get("", 1)

    def visit(self, node: ir.Node) -> None:
        if not is_standard(node):
            return
        kind = node.op_type
        if kind in ("Conv", "Gemm", "MatMul"):
            self._product(node)
        elif any(self._known(v) for v in node.inputs):
            if kind == "BatchNormalization":
                self._normalise(node)
            elif kind in POINTWISE:
                self._pointwise(node)
            elif kind in MOVING or kind in POOLING or kind in ZERO_KEEPING:
                self._pass_on(node, zeros_only=kind in ZERO_KEEPING)

    def _held(self, value: ir.Value | None) -> Array | None:
        return content_of(value, self._weights)

    def _known(self, value: ir.Value | None) -> dict[int, float]:
        return {} if value is None else self.known.get(value.name or "", {})

    def _numbers(self, value: ir.Value, axis: int) -> Array:
        known = self._known(value)
        labels = self._labelling.axes[value.name or ""][axis]
        return np.array([known.get(x, math.nan) for x in labels.tolist()])

    def _note(self, value: ir.Value, axis: int, numbers: Array) -> None:
        """Note the labels of one axis whose every index holds the same number."""
        labels = self._labelling.axes[value.name or ""][axis]
        found: dict[int, float] = {}
        for label in set(labels[~np.isnan(numbers)].tolist()) - {0}:
            held = numbers[labels == label]
            if (held == held[0]).all():
                found[label] = float(held[0])
        if found:
            self.known[value.name or ""] = found

    def _product(self, node: ir.Node) -> None:
        weight = self._held(node.inputs[1])
        x, out = node.inputs[0], node.outputs[0]
        if weight is None or x is None or self._held(x) is not None:
            return
        layer = read_layer(node, weight, self._probe)
        if layer is None:
            return
        columns, groups, axis, bordered = layer
        if self._known(x):
            numbers = self._numbers(x, axis).reshape(groups, -1)
            total = total_contributions(columns, numbers, bordered=bordered)
        else:
            total = np.where(columns.any(axis=(1, 2)), np.nan, 0.0)
        if np.isnan(total).all():
            return
        port = node.inputs[2] if len(node.inputs) > 2 else None  # noqa: PLR2004
        if port is not None:
            bias = self._held(port)
            if bias is None or bias.size not in (1, len(columns)):
                return
            beta = node.attributes["beta"].as_float() if "beta" in node.attributes else 1.0
            total = total + beta * bias.reshape(-1)
        rank = len(self._probe.shapes[out.name or ""])
        self._note(out, 1 if node.op_type == "Conv" else rank - 1, total)

    def _normalise(self, node: ir.Node) -> None:
        held = [self._held(v) for v in node.inputs[1:5]]
        x = node.inputs[0]
        if x is None or len(node.outputs) > 1 or any(h is None for h in held):
            return
        scale, shift, mean, variance = (np.asarray(h, np.float64) for h in held)
        epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        numbers = self._numbers(x, 1)
        self._note(
            node.outputs[0], 1, (numbers - mean) / np.sqrt(variance + epsilon) * scale + shift
        )

    def _pointwise(self, node: ir.Node) -> None:
        out = node.outputs[0]
        settings = _SETTINGS.get(node.op_type, ())
        found: dict[int, float] = {}
        rows: list[tuple[int, list[float]]] = []
        operands = [v for k, v in enumerate(node.inputs) if v is not None and k not in settings]
        for label in labels_of(self._labelling, out):
            row = [self._number(v, out, label) for v in operands]
            if node.op_type == "Mul" and 0.0 in row:
                found[label] = 0.0
            elif not any(math.isnan(n) for n in row):
                rows.append((label, row))
        if rows:
            inputs = [
                np.array([row[k] for _, row in rows], np.float32) for k in range(len(operands))
            ]
            result = self._compute(node, inputs)
            if result is not None:
                found.update(
                    {x: float(n) for (x, _), n in zip(rows, result, strict=True) if np.isfinite(n)}
                )
        if found and out.name:
            self.known[out.name] = found

    def _number(self, value: ir.Value, out: ir.Value, label: int) -> float:
        """Return what an operand holds where the output carries the label, or NaN."""
        content = self._held(value)
        if content is None:
            return self._known(value).get(label, math.nan)
        if content.size == 1:
            return float(content.reshape(()))
        axes = self._labelling.axes[out.name or ""]
        for axis, labels in enumerate(axes):
            own = axis - (len(axes) - content.ndim)
            places = np.flatnonzero(labels == label)
            if places.size:
                if own >= 0 and content.shape[own] == len(labels):
                    content = content.take(places, own)
                return float(content.flat[0]) if (content == content.flat[0]).all() else math.nan
        return math.nan

    def _compute(self, node: ir.Node, inputs: list[Array]) -> Array | None:
        """Compute a node on vectors, one element a channel."""
        proto = ir.to_proto(node)
        settings = _SETTINGS.get(node.op_type, ())
        feeds: dict[str, Array] = {}
        given = iter(inputs)
        for k, value in enumerate(node.inputs):
            if value is None:
                continue
            content = self._held(value) if k in settings else next(given)
            if content is None:
                return None
            proto.input[k] = f"i{k}"
            feeds[f"i{k}"] = content
        graph = onnx.helper.make_graph(
            [proto],
            "one",
            [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in feeds],
            [onnx.helper.make_tensor_value_info(proto.output[0], onnx.TensorProto.FLOAT, None)],
        )
        opsets = [onnx.helper.make_opsetid("", self._opset)]
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        try:
            with np.errstate(all="ignore"):
                results = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
        except (NotImplementedError, RuntimeError, TypeError, ValueError):
            # It has no implementation of a few versions: then nothing is known.
            return None
        array = np.asarray(cast("list[Any]", results)[0])
        return array if array.shape == inputs[0].shape else None

    def _pass_on(self, node: ir.Node, *, zeros_only: bool) -> None:
        """Hand on what every input that carries a label agrees on."""
        if zeros_only and node.op_type == "Pad" and not _pads_with_zero(node, self._held):
            return
        for out in node.outputs:
            found: dict[int, float] = {}
            for label in labels_of(self._labelling, out):
                held = {
                    self._known(v).get(label, math.nan)
                    for v in node.inputs
                    if label in labels_of(self._labelling, v)
                }
                if len(held) == 1:
                    (number,) = held
                    if not math.isnan(number) and (number == 0 or not zeros_only):
                        found[label] = number
            if found and out.name:
                self.known[out.name] = found


def _pads_with_zero(node: ir.Node, held: Any) -> bool:
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    value = node.attributes["value"].as_float() if "value" in node.attributes else 0.0
    port = node.inputs[2] if len(node.inputs) > 2 else None  # noqa: PLR2004
    content = np.zeros(1) if port is None else held(port)
    return mode != "constant" or (value == 0 and content is not None and not np.any(content))


Layer = tuple[Array, int, int, bool]
"""Weights [outputs, inputs of a group, positions], groups, the input's channel axis, whether pads see zeros."""


def read_layer(node: ir.Node, weight: Array, probe: Probe) -> Layer | None:
    """Read a Conv, Gemm or MatMul with a held weight as one matrix, or return None where it is none."""
    x = node.inputs[0]
    assert x is not None
    if node.op_type == "Conv":
        window = ops.kernel_window(node, probe.shapes)
        group = node.attributes["group"].as_int() if "group" in node.attributes else 1
        columns = weight.reshape(*weight.shape[:2], -1)
        return columns, group, 1, any((*window.before, *window.after))
    if node.op_type == "Gemm":
        if "transA" in node.attributes and node.attributes["transA"].as_int():
            return None
        turned = "transB" in node.attributes and node.attributes["transB"].as_int()
        alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 1.0
        matrix = weight if turned else weight.T
        return (matrix if alpha == 1 else alpha * matrix)[:, :, None], 1, 1, False
    if node.op_type == "MatMul" and weight.ndim == 2:  # noqa: PLR2004
        return weight.T[:, :, None], 1, len(probe.shapes[x.name or ""]) - 1, False
    return None
