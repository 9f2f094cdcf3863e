"""What onnxadmm sees in a model: classes of channels, what each costs, what is fixed and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.channels import ChannelClass, channel_macs, dead_labels
from onnxadmm.compact import Account, account, cut_channels, shapes_after
from onnxadmm.graph import OTHER_FLOATS, Probe, constant_of, widen
from onnxadmm.pipeline.analysis import (
    Analysis,
    analyse,
    channel_pools,
    channel_targets,
    quantize_rules,
    unlabelled_operators,
)
from onnxadmm.pipeline.foreseeing import alignment, foresee, inherent, peculiarities, untaught
from onnxadmm.pipeline.request import ModelLike, SpecLike, open_model, resolve
from onnxadmm.spec import parse_spec

if TYPE_CHECKING:
    from onnxadmm.modules import Survey


@dataclass(frozen=True)
class Apart:
    """A weight that carries no channel of any class: nothing of it can go.

    Attributes:
        name: The tensor's.
        layers: What reads it as a weight.
        parameters: Its elements.
        reason: Why.
    """

    name: str
    layers: tuple[str, ...]
    parameters: int
    reason: str


@dataclass(frozen=True)
class Inspection:
    """A model as a user should see it before compressing it.

    Attributes:
        name: The model's file name.
        inputs: Input name -> element type and declared shape, as text.
        outputs: Output names.
        opset: Version of the standard's operators.
        classes: Classes of coupled channels, fixed ones with their reason.
        apart: Weights that belong to no class, the largest first.
        macs: Class name -> multiply-accumulates of one sample that go with one of its channels.
        account: Size and cost.
        half: Size and cost if every class lost half its channels (aligned as a run would do).
        unknown: Operators without a rule, with their number of nodes: channels that reach them are fixed.
        tensors: Every held tensor that could be a weight: name, type, shape, whether it is one and learns, and why.
        frozen: Nodes that training executes as they are, by ONNX Runtime.
        refused: Why nodes can't be trained; with any, the model is compressed without training only.
        warnings: What no spec will gain on this model, and what the given one asks for and won't get.
    """

    name: str
    inputs: dict[str, str]
    outputs: tuple[str, ...]
    opset: int
    classes: tuple[ChannelClass, ...]
    apart: tuple[Apart, ...]
    macs: dict[str, int]
    account: Account
    half: Account
    unknown: dict[str, int]
    tensors: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as plain values, for JSON."""
        return {
            "model": self.name,
            "opset": self.opset,
            "inputs": self.inputs,
            "outputs": list(self.outputs),
            "classes": [_plain(c, self.macs[c.name]) for c in self.classes],
            "weights_without_channels": [
                {
                    "name": w.name,
                    "layers": list(w.layers),
                    "parameters": w.parameters,
                    "reason": w.reason,
                }
                for w in self.apart
            ],
            "original": _numbers(self.account),
            "half": _numbers(self.half),
            "operators_without_rule": [
                {"operator": name, "nodes": n} for name, n in self.unknown.items()
            ],
            "tensors": list(self.tensors),
            "frozen": list(self.frozen),
            "refused": list(self.refused),
            "warnings": list(self.warnings),
        }


def inspect(
    model: ModelLike, spec: SpecLike | None = None, overrides: Iterable[str] = ()
) -> Inspection:
    """Look at a model without changing or training it.

    Args:
        model: A file, or a graph in memory.
        spec: What is planned, to be warned of what it won't gain.
        overrides: `key=value` pairs over the spec.

    Raises:
        InputError: The model can't be used.
        SpecError: The spec can't, or not on this model.
    """
    planned = None
    if spec is None:
        graph, name, stored_bytes, _ = open_model(model)
    else:
        request = resolve(model, spec, overrides)
        planned, graph, name = request.spec, request.model, request.name
        stored_bytes = request.stored_bytes
    analysis = analyse(graph, planned)
    original = account(graph, analysis.probe)
    if stored_bytes is not None:
        original = replace(original, file_bytes=stored_bytes)
    half = _half(graph, analysis)
    trained = _survey(graph, analysis.probe)
    found_roles = ops.roles(graph)
    warnings = peculiarities(graph, ops.weights(graph)) + [
        w.text for w in inherent(graph, original)
    ]
    warnings += alignment(analysis.classes) + untaught(trained.untaught)
    if planned is not None:
        targets = channel_targets(analysis, planned)
        channel_pools(graph, analysis, planned)
        quantize_rules(analysis, planned)
        found = foresee(planned, analysis.classes, targets, analysis.layers)
        warnings += [warning.text for warning in found]
    return Inspection(
        name=name,
        inputs={
            v.name or "": f"{analysis.probe.dtypes.get(v.name or '', '?')} {_dims(v)}"
            for v in graph.graph.inputs
            if v.name not in graph.graph.initializers
        },
        outputs=tuple(v.name or "" for v in graph.graph.outputs),
        opset=graph.opset_imports.get("", graph.opset_imports.get("ai.onnx", 0)),
        classes=tuple(analysis.classes),
        apart=_apart(analysis, found_roles),
        macs=channel_macs(graph, analysis.labelling, analysis.probe, analysis.classes),
        account=original,
        half=half,
        unknown=unlabelled_operators(graph),
        tensors=tuple(_tensors(found_roles)),
        warnings=tuple(warnings),
        frozen=trained.frozen,
        refused=trained.refused,
    )


def _survey(graph: ir.Model, seen: Probe) -> Survey:
    """Say what training would freeze and refuse, in the form that is trained."""
    from onnxadmm.modules import survey_model

    held = {ops.element_type(v) for v in ops.weights(graph).values()}
    if not held & OTHER_FLOATS:
        return survey_model(graph, seen)
    others = {kind.numpy().name for kind in OTHER_FLOATS}
    dtypes = {n: "float32" if d in others else d for n, d in seen.dtypes.items()}
    inputs = {
        n: a.astype(np.float32) if a.dtype.name in others else a for n, a in seen.inputs.items()
    }
    return survey_model(widen(graph), replace(seen, dtypes=dtypes, inputs=inputs))


def _apart(analysis: Analysis, found: Mapping[str, ops.Role]) -> tuple[Apart, ...]:
    """Return the weights of more than one element that no class holds a slice of."""
    held = {s.tensor for c in analysis.classes for s in c.slices}
    labelling, weights = analysis.labelling, []
    for name, role in found.items():
        axes = labelling.axes.get(role.value.name or "", [])
        elements = math.prod(map(len, axes))
        if not role.weight or role.value.name in held or elements < 2:  # noqa: PLR2004
            continue
        longest = max(axes, key=len)
        why = [labelling.fixed[x] for x in longest.tolist() if x in labelling.fixed]
        layers = tuple(n.name or (n.outputs[0].name or "") for n in role.readers)
        reason = why[0] if why else "no layer makes channels of it"
        weights.append(Apart(name, layers, elements, reason))
    return tuple(sorted(weights, key=lambda w: -w.parameters))


def _tensors(found: Mapping[str, ops.Role]) -> Iterator[dict[str, Any]]:
    """Describe the role of every held tensor that could be a weight."""
    for name, role in found.items():
        content = constant_of(role.value)
        assert content is not None
        yield {
            "name": name,
            "type": content.dtype.name,
            "shape": list(content.shape),
            "weight": role.weight,
            "learns": role.learns,
            "why": role.why,
        }


def _half(graph: ir.Model, analysis: Analysis) -> Account:
    """Count what stays when each class keeps its first half: which half doesn't change the count."""
    spec = parse_spec({"version": 1, "prune": [{"structure": "channel", "amount": 0.5}]})
    if all(c.fixed for c in analysis.classes):
        return account(graph, analysis.probe)
    targets = channel_targets(analysis, spec)
    kept = {
        c.name: np.arange(c.size) < targets[c.name] for c in analysis.classes if c.name in targets
    }
    labelling, seen = analysis.labelling, analysis.probe
    dead = dead_labels(analysis.classes, kept)
    cut = cut_channels(graph, labelling, seen, dead)
    # A run of the cut graph would show the same, and a large one takes seconds to start.
    return account(cut, replace(seen, shapes=shapes_after(labelling, seen.shapes, dead)))


def _dims(value: ir.Value) -> str:
    if value.shape is None:
        return "[?]"
    return (
        "["
        + ", ".join(str(d) if isinstance(d, int) else str(d.value or "?") for d in value.shape)
        + "]"
    )


def _plain(c: ChannelClass, macs: int) -> dict[str, Any]:
    return {
        "class": c.name,
        "size": c.size,
        "layers": list(c.layers),
        "members": [f"{s.tensor}[{s.axis}]" for s in c.slices],
        "parameters_per_channel": c.parameters,
        "macs_per_channel": macs,
        "fixed": c.fixed,
        "reason": c.reason,
        "renormalised": c.renormalised,
    }


def _numbers(a: Account) -> dict[str, int]:
    return {
        "file_bytes": a.file_bytes,
        "parameters": a.parameters,
        "nonzero_parameters": a.nonzero_parameters,
        "macs": a.macs,
    }
