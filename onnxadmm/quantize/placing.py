"""Where int8 goes: the layers that have an integer kernel, and the values between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.graph import constant_of
from onnxadmm.ops import origin_of
from onnxadmm.spec import ActivationQuantization, Quantize

Array = np.ndarray[Any, Any]

# Operators with an integer kernel: input port of the activation, of the weight, of the bias.
LAYERS = {"Conv": (0, 1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1, None)}
# What ONNX Runtime folds into the quantization that follows it.
_FUSED = {"Relu", "Clip"}
# What hands quantized values on: one scale serves both sides.
CARRIED = {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"}

# What runs on integers where everything that it reads is quantized.
JOINED = {"Add", "Concat", "AveragePool", "GlobalAveragePool"}

PER_AXIS_SINCE = 13


@dataclass(frozen=True, slots=True)
class Chosen:
    """A layer that becomes int8, and the rule that holds for it."""

    node: ir.Node
    rule: Quantize


def name_of(node: ir.Node) -> str:
    """Return a node's name, or its first output's where it has none."""
    return node.name or node.outputs[0].name or ""


def choose(model: ir.Model, rules: Sequence[tuple[Quantize, set[str]]]) -> list[Chosen]:
    """Return the layers that become int8, in graph order; of several rules that name one the last holds."""
    chosen: list[Chosen] = []
    for node in model.graph:
        ports = LAYERS.get(node.op_type)
        if ports is None or node.domain not in ("", "ai.onnx"):
            continue
        content = weight_of(node, ports[1])
        if (
            content is None
            or content.dtype != np.float32
            or constant_of(node.inputs[0]) is not None
        ):
            continue
        if node.op_type == "MatMul" and content.ndim != 2:  # noqa: PLR2004
            continue
        if node.op_type == "Gemm" and not _plain_gemm(node):
            continue
        matching = [rule for rule, names in rules if name_of(node) in names]
        if matching and matching[-1].int8 is not None:
            chosen.append(Chosen(node, matching[-1]))
    return chosen


def weight_of(node: ir.Node, port: int) -> Array | None:
    """Return a layer's weight as the node reads it, also from behind a Transpose; None of what isn't held."""
    origin = origin_of(node.inputs[port])
    content = None if origin is None or not origin.same_type else constant_of(origin.held)
    if origin is None or content is None:
        return None
    moved: Array = content.transpose(origin.axes)
    return moved


def integer_layers(
    model: ir.Model, rules: Sequence[tuple[Quantize, set[str]]]
) -> tuple[set[str], bool]:
    """Return the names of the nodes that `quantize` makes int8, and whether scales by channel are possible."""
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    return {name_of(c.node) for c in choose(model, rules)}, opset >= PER_AXIS_SINCE


def _plain_gemm(node: ir.Node) -> bool:
    """Whether ONNX Runtime's integer Gemm computes it: A as it is, alpha and beta 1, bias [N]."""
    numbers = [node.attributes.get(n) for n in ("alpha", "beta")]
    if any(a is not None and a.as_float() != 1.0 for a in numbers):
        return False
    trans_a = node.attributes.get("transA")
    bias = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None  # noqa: PLR2004
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None  # noqa: PLR2004
    plain_bias = not has_bias or (bias is not None and bias.ndim == 1)
    return (trans_a is None or trans_a.as_int() == 0) and plain_bias


def placed(graph: ir.Graph, chosen: Sequence[Chosen]) -> dict[str, ActivationQuantization]:
    """Return the values to quantize, in graph order, each with how.

    Those are what the layers read and make, and what operators make that run on integers where all they read is
    quantized (`JOINED`). What a node makes is quantized behind the activation that ONNX Runtime fuses into it. A
    graph output stays float: its reader expects the model's own values.

    Args:
        graph: The float graph, sorted.
        chosen: From `choose`.
    """
    values: dict[str, ActivationQuantization] = {}
    for c in chosen:
        source, how = c.node.inputs[0], c.rule.int8
        assert source is not None
        assert how is not None
        values.setdefault(source.name or "", how)
        _add(values, c.node, how)
    # What only moves data hands on how its source is quantized.
    known: dict[str, ActivationQuantization] = dict(values)
    for node in graph:
        if node.domain not in ("", "ai.onnx") or node.op_type not in CARRIED | JOINED:
            continue
        read = node.inputs[:1] if node.op_type in CARRIED else node.inputs
        found = [known.get(v.name or "") if v is not None else None for v in read]
        if not found or found[0] is None or any(f is None for f in found):
            continue
        if node.op_type in CARRIED:
            known.setdefault(node.outputs[0].name or "", found[0])
        elif len({bool(f.signed) for f in found if f is not None}) == 1:
            _add(values, node, found[0])
            known |= values
    return values


def _add(
    values: dict[str, ActivationQuantization], node: ir.Node, how: ActivationQuantization
) -> None:
    """Add what a node makes, behind the activation that is fused into it."""
    output = node.outputs[0]
    uses = list(output.uses())
    if len(uses) == 1 and uses[0][0].op_type in _FUSED and not output.is_graph_output():
        output = uses[0][0].outputs[0]
    if not output.is_graph_output():
        values.setdefault(output.name or "", how)
