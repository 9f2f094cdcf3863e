"""The spec's prune and quantize entries as constraint sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from onnxadmm import ops
from onnxadmm.admm import (
    LAYER_STRUCTURES,
    Constraint,
    Layout,
    QuantizedWeight,
    Unreachable,
    coupled,
    make_layer_set,
    pool_elements,
    pooled,
)
from onnxadmm.channels import Pool, matches, patterns, weight_macs
from onnxadmm.errors import SpecError, one_line
from onnxadmm.graph import constant_of
from onnxadmm.pipeline.analysis import Analysis
from onnxadmm.quantize import integer_layers, level_table
from onnxadmm.spec import Prune, Quantize, Spec


def constraints(
    model: ir.Model,
    analysis: Analysis,
    spec: Spec,
    trainable: Mapping[str, tuple[int, ...]],
    targets: Mapping[str, int],
    *,
    pools: Sequence[Pool] = (),
) -> list[Constraint]:
    """Return the spec's prune entries as constraint sets.

    Args:
        model: The model.
        analysis: Its channels and layers.
        spec: The spec.
        trainable: Weight name -> shape.
        targets: From `channel_targets`.
        pools: From `channel_pools`.

    Raises:
        SpecError: An entry that names no weight, or would leave nothing of one.
    """
    sets: list[Constraint] = [
        coupled(c, targets[c.name], list(trainable)) for c in analysis.classes if c.name in targets
    ]
    sets += [pooled(p, list(trainable)) for p in pools]
    _require_learning(analysis, trainable, targets, pools)
    for structure in LAYER_STRUCTURES:
        chosen: dict[str, tuple[int, Prune]] = {}
        for position, rule in enumerate(spec.prune, start=1):
            if rule.structure == structure:
                hit = _matrices(analysis, trainable, rule)
                if not hit:
                    raise SpecError(
                        f"prune: layers {one_line(rule.layers, 60)!r} match no weight; layers are "
                        f"{one_line(', '.join(analysis.layers), 120)}"
                    )
                chosen.update(dict.fromkeys(hit, (position, rule)))
        sets += _layer_sets(model, chosen)
        together = {n: c for n, c in chosen.items() if c[1].scope == "global"}
        by_macs = any(rule.unit == "macs" for _, rule in together.values())
        prices = weight_macs(model, analysis.probe) if by_macs else {}
        sets += _pooled_sets(together, trainable, prices)
    return sets


def _layer_sets(model: ir.Model, chosen: Mapping[str, tuple[int, Prune]]) -> list[Constraint]:
    """Return the sets of single weights; those of scope global are none.

    Args:
        model: The model.
        chosen: Weight name -> number of the entry that holds, and the entry.
    """
    held, axes = ops.weights(model), ops.weight_axes(model)
    sets: list[Constraint] = []
    made: set[int] = set()
    alone = {n: c for n, c in chosen.items() if c[1].scope == "layer"}
    for name, (position, rule) in alone.items():
        weight = torch.from_numpy(np.array(constant_of(held[name])))
        try:
            found = make_layer_set(name, weight, Layout(*axes.get(name, (0, 1))), rule)
        except Unreachable as e:
            raise SpecError(f"prune entry {position}: {one_line(name, 60)!r}: {e}") from None
        if found is not None:
            sets.append(found)
            made.add(position)
    for position, rule in alone.values():
        if position not in made:
            raise SpecError(
                f"prune entry {position}: none of the layers {one_line(rule.layers, 60)!r} has kernels "
                "to take positions from; name convolutions"
            )
    return sets


def _pooled_sets(
    chosen: Mapping[str, tuple[int, Prune]],
    trainable: Mapping[str, tuple[int, ...]],
    prices: Mapping[str, float],
) -> list[Constraint]:
    """Return one set for each entry over all the weights that it holds; `prices` by `weight_macs`."""
    sets: list[Constraint] = []
    for position, rule in dict(chosen.values()).items():
        shapes = {n: trainable[n] for n, c in chosen.items() if c[0] == position}
        try:
            sets.append(pool_elements(f"prune entry {position}", shapes, rule, prices))
        except Unreachable as e:
            raise SpecError(f"prune entry {position}: {e}") from None
    return sets


def _require_learning(
    analysis: Analysis,
    trainable: Mapping[str, tuple[int, ...]],
    targets: Mapping[str, int],
    pools: Sequence[Pool],
) -> None:
    """Refuse a class that loses channels and of which no tensor learns."""
    pruned = {*targets, *(c.name for p in pools for c in p.classes)}
    for c in analysis.classes:
        learns = any(s.tensor in trainable and not s.unlearnt for s in c.slices)
        if c.name in pruned and not learns:
            raise SpecError(
                f"prune: no tensor of channel class {one_line(c.name, 60)!r} learns; take one out of "
                "train.exclude, or leave the class's layers out of prune"
            )


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


def level_sets(
    model: ir.Model,
    layers: Mapping[str, Sequence[str]],
    rules: Sequence[tuple[Quantize, set[str]]],
    trainable: Mapping[str, tuple[int, ...]],
) -> list[QuantizedWeight]:
    """Return the spec's quantize entries as constraint sets, in the order of the layers.

    What is zero stays zero: pruning put it there.

    Args:
        model: The graph, pruned.
        layers: Node name -> names of its weights.
        rules: From `quantize_rules`; of several that name a layer the last one holds.
        trainable: Weight name -> shape; biases and the like, of one axis, are left out.
    """
    integer, by_axis = integer_layers(model, rules)
    held, axes = ops.weights(model), ops.weight_axes(model)
    sets: dict[str, QuantizedWeight] = {}
    for node, names in layers.items():
        rule = next((r for r, nodes in reversed(rules) if node in nodes), None)
        if rule is None or (rule.int8 is not None and node not in integer):
            continue
        by_channel = rule.weights.granularity == "channel" and (by_axis or rule.int8 is None)
        for name in names:
            if len(trainable.get(name, ())) > 1:
                content = torch.from_numpy(np.array(constant_of(held[name])))
                support = None if bool((content != 0).all()) else content != 0
                axis = axes.get(name, (0, 1))[0] if by_channel else None
                sets[name] = QuantizedWeight(name, level_table(rule.weights), axis, support)
    return list(sets.values())
