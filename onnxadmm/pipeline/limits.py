"""The spec's prune entries as constraint sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnxadmm.admm import Constraint, Unstructured, coupled
from onnxadmm.channels import matches, patterns
from onnxadmm.errors import SpecError, one_line
from onnxadmm.pipeline.analysis import Analysis
from onnxadmm.spec import Prune, Spec


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
        size = math.prod(trainable[name])
        sets.append(Unstructured(name, size, max(1, round(size * (1 - rule.amount)))))
    return sets


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
