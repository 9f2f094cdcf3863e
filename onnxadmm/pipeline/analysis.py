"""What can be taken away from a model, and what the spec takes: before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.admm import Constraint, Unstructured, coupled
from onnxadmm.channels import ChannelClass, Labelling, classify, label, matches, patterns, select
from onnxadmm.errors import SpecError, UnsupportedError, one_line
from onnxadmm.graph import Probe, constant_of, probe
from onnxadmm.spec import Prune, Quantize, Spec


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


def analyse(model: ir.Model) -> Analysis:
    """Probe and label a model.

    Raises:
        UnsupportedError: It holds no weights: there is nothing to compress.
    """
    seen = probe(model)
    layers = ops.layer_weights(model)
    if not layers:
        raise UnsupportedError("the model holds no weights in any layer: nothing to compress")
    labelling = label(model, seen)
    return Analysis(seen, labelling, classify(labelling, seen), layers)


def channel_targets(analysis: Analysis, spec: Spec) -> dict[str, int]:
    """Return class name -> channels kept, for the classes that the spec prunes."""
    rules = [p for p in spec.prune if p.structure == "channel"]
    return select(analysis.classes, rules, analysis.layers)


def constraints(
    analysis: Analysis,
    spec: Spec,
    trainable: Mapping[str, tuple[int, ...]],
    targets: Mapping[str, int],
) -> list[Constraint]:
    """Return the spec's prune entries as constraint sets.

    Args:
        analysis: The model.
        spec: The spec.
        trainable: Weight name -> shape.
        targets: From `channel_targets`.
    """
    sets: list[Constraint] = [
        coupled(c, targets[c.name], list(trainable)) for c in analysis.classes if c.name in targets
    ]
    rules = [p for p in spec.prune if p.structure == "unstructured"]
    chosen: dict[str, Prune] = {}
    for rule in rules:
        hit = _matrices(analysis, trainable, rule)
        if not hit:
            raise SpecError(
                f"prune: layers {one_line(rule.layers, 60)!r} match no weight; layers are "
                f"{one_line(', '.join(analysis.layers), 120)}"
            )
        chosen.update(dict.fromkeys(hit, rule))
    for name, rule in chosen.items():
        size = _elements(trainable[name])
        sets.append(Unstructured(name, size, max(1, round(size * (1 - rule.amount)))))
    return sets


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
    """Return weight name -> shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in ops.weights(model).items():
        content = constant_of(value)
        if content is not None:
            shapes[name] = content.shape
    return shapes


def unlabelled_operators(model: ir.Model) -> list[str]:
    """Return operator types that have no definition: channels that reach them are fixed."""
    opsets = dict(model.opset_imports)
    found = {n.op_type for n in model.graph if ops.find(n, opsets) is None}
    return sorted(found)


def _matrices(
    analysis: Analysis, trainable: Mapping[str, tuple[int, ...]], rule: Prune
) -> Sequence[str]:
    """Return the weights of two and more axes that the rule names: biases are never pruned singly."""
    globs = patterns(rule.layers)
    return [
        name
        for node, names in analysis.layers.items()
        for name in names
        if name in trainable and len(trainable[name]) > 1 and matches((node, name), globs)
    ]


def _elements(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total
