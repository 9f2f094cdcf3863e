"""One budget over the single weights of many layers, each weight at its layer's price: 1, or its multiply-accumulates.

Which weights to keep under a budget is a knapsack. They are taken in the order of square a unit of cost until the
next does not fit, and this prefix is the closest member of everything that costs no more than it. What the budget
leaves unused is less than one weight's price: nothing where all cost the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from onnxadmm.admm.constraints import Constraint

_HALF = 16
"""A float32's bits are looked at in two halves: counting its values so takes two passes and little memory."""


@dataclass(frozen=True)
class PricedElements(Constraint):
    """What the nonzero elements of several tensors cost together is at most `allowed`."""

    name: str
    tensors: tuple[str, ...]
    prices: tuple[float, ...]
    """What one element of each tensor costs, not negative; what costs nothing stays whole."""
    whole: float
    """What all elements cost."""
    allowed: float

    def masks(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep the largest squares a unit of cost; of equal ones those of the earlier tensor, then index.

        Raises:
            ValueError: A weight isn't finite.
        """
        found = [weights[n] for n in self.tensors]
        return dict(zip(self.tensors, affordable(found, self.prices, self.allowed), strict=True))

    def tightened(self, share: float) -> PricedElements:
        """Allow a cost on the geometric way from all to `allowed`; see `Constraint.tightened`."""
        between = self.whole * (max(self.allowed, 1.0) / self.whole) ** share
        return self if share >= 1 else replace(self, allowed=max(self.allowed, between))


def affordable(weights: Sequence[Tensor], prices: Sequence[float], allowed: float) -> list[Tensor]:
    """Return the masks of the largest squares a unit of cost, taken in order until the next costs more than is left.

    Linear in the number of weights: the border is found by counting. Beside the masks it takes a few copies of one
    tensor at a time.

    Args:
        weights: float32.
        prices: Of each of a tensor's elements.
        allowed: What the chosen may cost together.

    Raises:
        ValueError: A weight isn't finite.
    """
    if not all(bool(torch.isfinite(w).all()) for w in weights):
        raise ValueError("a weight is not finite")
    priced = list(zip(weights, prices, strict=True))
    high, left = _border(((_bits(w, p) >> _HALF, p) for w, p in priced), allowed)
    if high is None:
        return [torch.ones_like(w, dtype=torch.bool) for w in weights]
    low, left = _border((_lower(_bits(w, p), high, p) for w, p in priced), left)
    assert low is not None
    border = high << _HALF | low
    masks = []
    for weight, price in priced:
        bits = _bits(weight, price)
        mask = bits > border if price else torch.ones_like(bits, dtype=torch.bool)
        if price:
            tied = (bits == border).nonzero().flatten()[: int(left // price)]
            mask[tied] = True
            left -= price * len(tied)
        masks.append(mask.view(weight.shape))
    return masks


def _bits(weight: Tensor, price: float) -> Tensor:
    """Return what orders the elements: floats that aren't negative are in the order of their bits, [n] int32."""
    return (weight.abs() / math.sqrt(price or 1.0)).reshape(-1).view(torch.int32)


def _lower(bits: Tensor, high: int, price: float) -> tuple[Tensor, float]:
    """Return the lower halves of those whose upper half is `high`, with their price."""
    return bits[bits >> _HALF == high] & ((1 << _HALF) - 1), price


def _border(codes: Iterable[tuple[Tensor, float]], allowed: float) -> tuple[int | None, float]:
    """Return the highest code of which not all elements fit any more, None where all do, and what is left for it."""
    cost = torch.zeros(1 << _HALF, dtype=torch.float64)
    for c, price in codes:
        cost += torch.bincount(c, minlength=1 << _HALF).cpu().double() * price
    total = cost.flip(0).cumsum(0).flip(0)
    over = (total > allowed).nonzero().flatten()
    if not len(over):
        return None, allowed - float(total[0])
    border = int(over[-1])
    return border, allowed - float(total[border] - cost[border])
