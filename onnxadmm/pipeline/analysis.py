"""What can be taken away from a model, and what the spec takes: before anything is trained."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.channels import (
    ChannelClass,
    Labelling,
    Pool,
    channel_macs,
    channels_left,
    classify,
    kept_steps,
    label,
    macs_left,
    make_pool,
    matches,
    parameters_left,
    patterns,
    ruling,
    select,
)
from onnxadmm.errors import SpecError, UnsupportedError, one_line
from onnxadmm.graph import Probe, constant_of, probe
from onnxadmm.spec import Quantize, Spec


@dataclass(frozen=True)
class Analysis:
    """A model as its channels.

    Attributes:
        probe: Shapes of every value.
        labelling: Labels of every tensor.
        classes: Classes of coupled channels, fixed ones included.
        layers: Node name -> names of its weights.
    """

    probe: Probe
    labelling: Labelling
    classes: list[ChannelClass]
    layers: dict[str, list[str]]


def analyse(model: ir.Model, spec: Spec | None = None) -> Analysis:
    """Probe and label a model.

    Args:
        model: The graph; it isn't changed.
        spec: What is planned: whether heads go as a whole.

    Raises:
        UnsupportedError: It holds no weights: there is nothing to compress.
    """
    seen = probe(model)
    layers = ops.layer_weights(model)
    if not layers:
        raise UnsupportedError("the model holds no weights in any layer: nothing to compress")
    rules = [] if spec is None else [p for p in spec.prune if p.structure == "channel"]
    labelling = label(model, seen, whole_heads=any(p.heads == "whole" for p in rules))
    return Analysis(seen, labelling, classify(labelling, seen), layers)


def channel_targets(analysis: Analysis, spec: Spec) -> dict[str, int]:
    """Return class name -> channels kept, for the classes that entries of scope `layer` prune.

    Raises:
        UnsupportedError: The spec prunes channels and no layer makes any.
    """
    if not analysis.classes and any(p.structure == "channel" for p in spec.prune):
        weights = {n for names in analysis.layers.values() for n in names}
        raise UnsupportedError(
            "no layer of this model makes channels that can be cut: its layers lie inside an If, a Loop or a Scan, where "
            "none are cut yet; export it without, or train it towards another structure"
            if weights - set(analysis.probe.shapes)
            else "no layer of this model makes float channels (quantized already?): nothing to prune; "
            "`onnxadmm inspect` lists operators without a rule; start from the float model"
        )
    return select(analysis.classes, spec.prune, analysis.layers)


def channel_pools(model: ir.Model, analysis: Analysis, spec: Spec) -> list[Pool]:
    """Return the classes that entries of scope `global` prune, one pool an entry.

    Raises:
        SpecError: An entry asks for more than `min_channels` and `round_to` let go.
    """
    held = ruling(analysis.classes, spec.prune, analysis.layers)
    pools: list[Pool] = []
    for index, rule in enumerate(spec.prune):
        classes = [c for c in analysis.classes if held.get(c.name) == index]
        if rule.scope == "layer" or not classes:
            continue
        if rule.unit == "macs":
            macs = channel_macs(model, analysis.labelling, analysis.probe, classes)
            prices = [float(macs[c.name]) for c in classes]
            cost = macs_left(model, analysis.labelling, analysis.probe, classes)
        elif rule.unit == "channels":
            prices, cost = [1.0] * len(classes), channels_left
        else:
            prices = [float(c.parameters) for c in classes]
            cost = parameters_left(classes, analysis.probe)
        pools.append(make_pool(f"prune entry {index + 1}", classes, rule, prices, cost))
    return pools


def channel_steps(analysis: Analysis, spec: Spec) -> dict[str, tuple[int, int]]:
    """Return class name -> (its kept count is a multiple of this, and at least this)."""
    rules = [p for p in spec.prune if p.structure == "channel"]
    return kept_steps(analysis.classes, rules, analysis.layers)


def quantize_rules(analysis: Analysis, spec: Spec) -> list[tuple[Quantize, set[str]]]:
    """Return the spec's quantize entries, each with the nodes that it names.

    Raises:
        SpecError: An entry that matches no layer.
    """
    rules: list[tuple[Quantize, set[str]]] = []
    for rule in spec.quantize:
        globs = patterns(rule.layers)
        hit = {node for node, names in analysis.layers.items() if matches((node, *names), globs)}
        if not hit:
            raise SpecError(
                f"quantize: layers {one_line(rule.layers, 60)!r} match no layer with weights; layers are "
                f"{one_line(', '.join(analysis.layers), 120)}"
            )
        rules.append((rule, hit))
    return rules


def trainable_weights(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """Return weight name -> shape, of those that learn and are stored as floats: integers are no values to prune."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, role in ops.roles(model).items():
        content = constant_of(role.value)
        if role.learns and role.dequantize is None and content is not None:
            shapes[name] = content.shape
    return shapes


def unlabelled_operators(model: ir.Model) -> dict[str, int]:
    """Return the operators that have no definition, with their number of nodes.

    Channels that reach them are fixed.
    """
    opsets = dict(model.opset_imports)
    found = Counter(
        f"{n.domain}.{n.op_type}" if n.domain not in ("", "ai.onnx") else n.op_type
        for n in model.graph
        if ops.find(n, opsets) is None
    )
    return dict(sorted(found.items()))
