"""From the spec's rates to a number of channels that each class keeps."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence

from onnxadmm.channels.classes import ChannelClass
from onnxadmm.errors import SpecError, one_line
from onnxadmm.spec import Prune

ALIGNED_FROM = 32
"""Classes of this size and more keep multiples of `ALIGNMENT` unless the spec says otherwise."""
ALIGNMENT = 8
"""Widths that are no multiple of it can lose half of a kernel's speed (README, measured)."""


def patterns(layers: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the globs of a `layers` entry."""
    return (layers,) if isinstance(layers, str) else layers


def matches(names: Iterable[str], globs: tuple[str, ...]) -> bool:
    """Whether any name matches any glob (case counts)."""
    return any(fnmatch.fnmatchcase(n, g) for n in names for g in globs)


def kept_count(size: int, rule: Prune) -> int:
    """Return how many of `size` channels stay under the rule.

    The nearest multiple of `round_to`, never fewer than `min_channels`, never more than there are.
    """
    return min(size, max(_nearest_count(size, rule), least_count(size, rule)))


def least_count(size: int, rule: Prune) -> int:
    """Return the fewest of `size` channels that the rule's `round_to` and `min_channels` let stay."""
    return min(size, max(rule.round_to or default_step(size), rule.min_channels))


def _nearest_count(size: int, rule: Prune) -> int:
    """Return the multiple of `round_to` that is nearest to what the rule's amount leaves."""
    step = rule.round_to or default_step(size)
    return step * math.floor(size * (1 - rule.amount) / step + 0.5)


def default_step(size: int) -> int:
    """Return what kept counts of a class of this size are multiples of where the spec says nothing."""
    return ALIGNMENT if size >= ALIGNED_FROM else 1


def kept_steps(
    classes: Sequence[ChannelClass], rules: Sequence[Prune], weights: Mapping[str, Sequence[str]]
) -> dict[str, tuple[int, int]]:
    """Return, for each class, what its kept count is a multiple of, and the least it may be.

    Args:
        classes: All classes.
        rules: The spec's prune entries of structure `channel`; the last one that matches holds.
        weights: Layer name -> names of its weights.
    """
    found = {c.name: (default_step(c.size), 1) for c in classes}
    for rule in rules:
        for c in classes:
            if matches(names_of(c, weights), patterns(rule.layers)):
                found[c.name] = (rule.round_to or default_step(c.size), rule.min_channels)
    return found


def select(
    classes: Sequence[ChannelClass], rules: Sequence[Prune], weights: Mapping[str, Sequence[str]]
) -> dict[str, int]:
    """Choose how many channels each class keeps under the rules of scope `layer`.

    Args:
        classes: All classes, fixed ones included.
        rules: The spec's prune entries; of those of structure `channel` the last one that matches a class holds.
        weights: Layer name -> names of its weights, which globs may match too.

    Returns:
        Class name -> kept count, for the classes that lose channels.

    Raises:
        SpecError: A glob that matches no layer, or that names only channels that can't go; an amount that leaves
            all classes of an entry fewer channels than `round_to` and `min_channels` do.
    """
    found: dict[str, int] = {}
    held = ruling(classes, rules, weights)
    for position in sorted(set(held.values())):
        _require_possible(
            [c for c in classes if held.get(c.name) == position], rules[position], position
        )
    for c in classes:
        if c.name in held and rules[held[c.name]].scope == "layer":
            kept = kept_count(c.size, rules[held[c.name]])
            if kept < c.size:
                found[c.name] = kept
    return found


def is_bounded(size: int, rule: Prune) -> bool:
    """Whether a class of this size keeps more than the rule's amount asks for, and loses some all the same."""
    least = least_count(size, rule)
    return _nearest_count(size, rule) < least < size


def _require_possible(classes: Sequence[ChannelClass], rule: Prune, position: int) -> None:
    """Refuse an amount that no class of an entry can lose; one of which nothing can go stays whole.

    Where others can, `round_to` and `min_channels` are the floor that they are meant to be.
    """
    met = any(_nearest_count(c.size, rule) >= least_count(c.size, rule) for c in classes)
    bounded = [c for c in classes if is_bounded(c.size, rule)]
    if rule.scope != "layer" or met or not bounded:
        return
    c = bounded[0]
    least = least_count(c.size, rule)
    step = rule.round_to or default_step(c.size)
    bound = f"min_channels {rule.min_channels}"
    if step > rule.min_channels:
        bound = f"round_to {step}" if rule.round_to else f"the default round_to of {step}"
    possible = math.floor(1e6 * (1 - least / c.size)) / 1e6
    raise SpecError(
        f"prune entry {position + 1}: amount {rule.amount:g} leaves {c.size * (1 - rule.amount):.3g} of the {c.size} "
        f"channels of {one_line(c.name, 60)!r}, but {bound} keeps {least}; at most {possible:g} can go: lower the "
        "bound, or give the class an entry with another amount"
    )


def ruling(
    classes: Sequence[ChannelClass], rules: Sequence[Prune], weights: Mapping[str, Sequence[str]]
) -> dict[str, int]:
    """Return, for each class that may lose channels, which rule holds: the last one that matches.

    Args:
        classes: All classes.
        rules: The spec's prune entries; those of other structures hold for no class.
        weights: Layer name -> names of its weights.

    Returns:
        Class name -> index of the rule.

    Raises:
        SpecError: A glob that matches no layer, or that names only channels that can't go.
    """
    held: dict[str, int] = {}
    for position, rule in enumerate(rules):
        if rule.structure != "channel":
            continue
        for glob in patterns(rule.layers):
            hit = [c for c in classes if matches(names_of(c, weights), (glob,))]
            _check(glob, hit, classes, position)
            held.update(
                {
                    c.name: position
                    for c in hit
                    if not c.fixed and (rule.renormalise or c.renormalised is None)
                }
            )
    return held


def names_of(c: ChannelClass, weights: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what a glob may match to mean a class: its own name, its layers' and their weights'."""
    return [c.name, *(n for layer in c.layers for n in (layer, *weights.get(layer, ())))]


def _check(
    glob: str, hit: list[ChannelClass], classes: Sequence[ChannelClass], position: int
) -> None:
    where = f"prune entry {position + 1}: layers {one_line(glob, 60)!r}"
    if not hit:
        names = [layer for c in classes for layer in c.layers]
        near = difflib.get_close_matches(glob, names, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"layers are {_some(names)}"
        raise SpecError(f"{where} matches no layer with weights; {one_line(hint, 140)}")
    if glob != "*" and all(c.fixed for c in hit):
        raise SpecError(
            f"{where} can't lose channels: {one_line(hit[0].reason or '', 140)}; choose other layers"
        )


def _some(names: list[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit]) or "none"
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
