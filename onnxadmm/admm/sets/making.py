"""From a prune entry and a weight to the weight's set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from onnxadmm.admm.constraints import Constraint, Unstructured
from onnxadmm.admm.priced import PricedElements
from onnxadmm.admm.sets._base import Groups, Layout
from onnxadmm.admm.sets.blocks import Blocks
from onnxadmm.admm.sets.columns import Columns
from onnxadmm.admm.sets.filters import Filters
from onnxadmm.admm.sets.input_channels import InputChannels
from onnxadmm.admm.sets.n_of_m import NOfM
from onnxadmm.admm.sets.patterns import KernelPatterns, pattern_library
from onnxadmm.spec import Prune


class Unreachable(ValueError):  # noqa: N818  (the caller turns it into the message that a user sees)
    """The entry would leave nothing of the weight; the text names the bound."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A weight that a set is made for."""

    tensor: str
    weight: Tensor
    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""
        return tuple(self.weight.shape)


def make_layer_set(tensor: str, weight: Tensor, layout: Layout, rule: Prune) -> Constraint | None:
    """Return the set that a prune entry means for a weight; None where it has no such structure.

    Args:
        tensor: The weight's name.
        weight: Its content; shapes decide, and patterns are chosen from it.
        layout: Its axes.
        rule: The entry; its structure is one of `LAYER_STRUCTURES`.

    Raises:
        Unreachable: Nothing of the weight would be left.
    """
    return LAYER_STRUCTURES[rule.structure](Subject(tensor, weight, layout), rule)


def pool_elements(
    name: str, shapes: Mapping[str, Sequence[int]], rule: Prune, prices: Mapping[str, float]
) -> PricedElements:
    """Return the set that an unstructured entry of scope `global` means for the weights that it holds.

    Args:
        name: Of the set.
        shapes: Weight name -> shape.
        rule: The entry.
        prices: Weight name -> multiply-accumulates of one of its elements, for `unit: macs`.

    Raises:
        Unreachable: Nothing of them would be left.
    """
    if rule.unit == "macs":
        each = tuple(prices.get(n, 0.0) for n in shapes)
        whole = sum(p * math.prod(s) for p, s in zip(each, shapes.values(), strict=True))
        allowed, least = whole * (1 - rule.amount), min((p for p in each if p), default=0.0)
        if not whole:
            raise Unreachable("none of the weights that it names has multiply-accumulates")
        if allowed < least:
            bound = math.floor(1e6 * (1 - least / whole)) / 1e6
            raise Unreachable(
                f"amount {rule.amount:g} leaves {allowed:.3g} of {whole:.0f} multiply-accumulates, and the cheapest weight "
                f"has {least:.0f}; at most {bound:g} can go"
            )
        return PricedElements(name, tuple(shapes), each, whole, allowed)
    size = sum(math.prod(shape) for shape in shapes.values())
    ones = (1.0,) * len(shapes)
    return PricedElements(name, tuple(shapes), ones, size, _kept(size, rule, "weights"))


def _kept(size: int, rule: Prune, what: str) -> int:
    """Return how many of `size` stay."""
    keep = round(size * (1 - rule.amount))
    if keep < 1:
        raise Unreachable(
            f"amount {rule.amount:g} leaves none of its {size} {what}; at most {1 - 1 / size:.6g} can go"
        )
    return keep


def _unstructured(subject: Subject, rule: Prune) -> Constraint:
    size = math.prod(subject.shape)
    return Unstructured(subject.tensor, size, _kept(size, rule, "weights"))


def _grouped(kind: type[Groups], what: str) -> Callable[[Subject, Prune], Constraint]:
    def make(subject: Subject, rule: Prune) -> Constraint:
        whole = kind(subject.tensor, subject.shape, subject.layout, 0)
        return kind(subject.tensor, subject.shape, subject.layout, _kept(whole.size, rule, what))

    return make


def _blocks(subject: Subject, rule: Prune) -> Constraint:
    whole = Blocks(subject.tensor, subject.shape, subject.layout, 0, rule.block)
    keep = _kept(whole.size, rule, "blocks")
    return Blocks(subject.tensor, subject.shape, subject.layout, keep, rule.block)


def _n_of_m(subject: Subject, rule: Prune) -> Constraint:
    keep = _kept(rule.group, rule, "weights a group")
    return NOfM(subject.tensor, subject.shape, subject.layout, keep, rule.group)


def _patterns(subject: Subject, rule: Prune) -> Constraint | None:
    positions = subject.layout.view(subject.weight).shape[2]
    if positions == 1:
        return None
    entries = _kept(positions, rule, "kernel positions")
    library = pattern_library(subject.weight, subject.layout, entries, rule.patterns)
    return KernelPatterns(subject.tensor, subject.shape, subject.layout, library)


LAYER_STRUCTURES: dict[str, Callable[[Subject, Prune], Constraint | None]] = {
    "unstructured": _unstructured,
    "filter": _grouped(Filters, "filters"),
    "input_channel": _grouped(InputChannels, "input channels"),
    "shape": _grouped(Columns, "columns"),
    "block": _blocks,
    "n_of_m": _n_of_m,
    "pattern": _patterns,
}
"""Spec name of a structure of one weight -> how its set is made."""
