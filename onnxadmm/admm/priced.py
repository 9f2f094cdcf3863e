"""One budget over the single weights of many layers, each weight at its layer's price.

Which weights to keep under a budget is a knapsack. They are taken in the order of square a unit of cost until the
next does not fit, and this prefix is the closest member of everything that costs no more than it. What the budget
leaves unused is less than one weight's price.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
        scores = [
            weights[n].abs().flatten() / math.sqrt(p or 1.0)
            for n, p in zip(self.tensors, self.prices, strict=True)
        ]
        kept = affordable(scores, self.prices, self.allowed)
        return {n: m.view_as(weights[n]) for n, m in zip(self.tensors, kept, strict=True)}

    def tightened(self, share: float) -> PricedElements:
        """Allow a cost on the geometric way from all to `allowed`; see `Constraint.tightened`."""
        between = self.whole * (max(self.allowed, 1.0) / self.whole) ** share
        return self if share >= 1 else replace(self, allowed=max(self.allowed, between))


def affordable(scores: Sequence[Tensor], prices: Sequence[float], allowed: float) -> list[Tensor]:
    """Return the masks of the highest scores, taken in order until the next costs more than is left.

    Linear in the number of scores: the border is found by counting.

    Args:
        scores: float32, not negative, one flat tensor for each price.
        prices: Of each of a tensor's elements.
        allowed: What the chosen may cost together.

    Raises:
        ValueError: A score isn't finite.
    """
    if not all(bool(torch.isfinite(s).all()) for s in scores):
        raise ValueError("a score is not finite")
    # Floats that aren't negative are in the order of their bits.
    bits = [s.contiguous().view(torch.int32) for s in scores]
    free = [p == 0 for p in prices]
    high, left = _border([b >> _HALF for b in bits], prices, allowed)
    if high is None:
        return [torch.ones_like(s, dtype=torch.bool) for s in scores]
    inside = [b[b >> _HALF == high] & ((1 << _HALF) - 1) for b in bits]
    low, left = _border(inside, prices, left)
    assert low is not None
    border = high << _HALF | low
    masks = [
        torch.ones_like(b, dtype=torch.bool) if f else b > border
        for b, f in zip(bits, free, strict=True)
    ]
    for b, mask, price in zip(bits, masks, prices, strict=True):
        if price:
            tied = (b == border).nonzero().flatten()[: int(left // price)]
            mask[tied] = True
            left -= price * len(tied)
    return masks


def _border(
    codes: Sequence[Tensor], prices: Sequence[float], allowed: float
) -> tuple[int | None, float]:
    """Return the highest code of which not all elements fit any more, None where all do, and what is left for it."""
    cost = torch.zeros(1 << _HALF, dtype=torch.float64)
    for c, price in zip(codes, prices, strict=True):
        cost += torch.bincount(c, minlength=1 << _HALF).cpu().double() * price
    total = cost.flip(0).cumsum(0).flip(0)
    over = (total > allowed).nonzero().flatten()
    if not len(over):
        return None, allowed - float(total[0])
    border = int(over[-1])
    return border, allowed - float(total[border] - cost[border])
