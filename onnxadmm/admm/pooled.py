"""One budget over many classes of coupled channels.

Which channels to keep under a budget is a knapsack. Steps are taken in the order of score a unit of cost
until the next one does not fit, and this prefix is the closest member of everything that costs no more than it
where costs add up: of channels counted singly always, so there the projection is exact. In parameters and MACs
the prefix can leave less than one step of the budget unused. What still fits of it is given to the next classes in
order, so the result is at most the score of one step away from the optimum of the whole budget. Where classes
cross in one layer, the order goes by what a channel costs while the others are whole; the budget is the true one.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from onnxadmm.admm.constraints import Constraint, CoupledChannels, channel_masks, coupled
from onnxadmm.admm.projections import top_k_mask
from onnxadmm.channels import Pool


@dataclass(frozen=True)
class PooledChannels(Constraint):
    """What the channels of several classes cost together is at most `allowed`."""

    pool: Pool
    members: tuple[CoupledChannels, ...]
    """One for each class of the pool; what it keeps is chosen here."""
    allowed: float

    @property
    def name(self) -> str:  # type: ignore[override]
        """The pool's name."""
        return self.pool.name

    @property
    def tensors(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the weights that carry the channels."""
        return tuple(dict.fromkeys(n for m in self.members for n in m.tensors))

    def kept(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the masks of the channels that stay, class by class."""
        scores = [m.scores(weights) for m in self.members]
        return [top_k_mask(s, k) for s, k in zip(scores, self.kept_counts(scores), strict=True)]

    def kept_counts(self, scores: Sequence[Tensor]) -> list[int]:
        """Return how many channels each class keeps, by their scores.

        Of equal score a unit of cost the earlier class goes first.
        """
        ladders, cost = self.pool.ladders, self.pool.cost
        order = self._order(scores)
        prefixes = [[ladder[0] for ladder in ladders]]
        for index, count in order:
            prefixes.append(prefixes[-1].copy())
            prefixes[-1][index] = count
        # The cost grows along the order.
        low, high = 0, len(order)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (
                (middle, high) if cost(prefixes[middle]) <= self.allowed else (low, middle - 1)
            )
        kept, closed = prefixes[low], set[int]()
        for index, count in order[low:]:
            tried = [*kept[:index], count, *kept[index + 1 :]]
            if index in closed:
                continue
            if cost(tried) <= self.allowed:
                kept = tried
            else:
                closed.add(index)
        return kept

    def masks(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Spread the channels' masks over the slices; see `Constraint.masks`."""
        masks: dict[str, Tensor] = {}
        for member, kept in zip(self.members, self.kept(weights), strict=True):
            for name, mask in channel_masks(member.slices, kept, weights).items():
                masks[name] = mask if name not in masks else masks[name] & mask
        return masks

    def tightened(self, share: float) -> PooledChannels:
        """Allow a cost on the geometric way from all to `allowed`; see `Constraint.tightened`."""
        whole = float(self.pool.cost([c.size for c in self.pool.classes]))
        between = whole * (max(self.allowed, 1.0) / whole) ** share
        return self if share >= 1 else replace(self, allowed=max(self.allowed, between))

    def _order(self, scores: Sequence[Tensor]) -> list[tuple[int, int]]:
        """Return all steps beyond the least counts as (class, count), highest score a unit of cost first."""
        sums: list[list[float]] = []
        heap: list[tuple[float, int, int]] = []
        for s in scores:
            if not bool(torch.isfinite(s).all()):
                raise ValueError("a score is not finite")
            sums.append([0.0, *itertools.accumulate(s.sort(descending=True).values.tolist())])

        def push(index: int, rung: int) -> None:
            ladder = self.pool.ladders[index]
            if rung < len(ladder):
                before, count = ladder[rung - 1], ladder[rung]
                gain = sums[index][count] - sums[index][before]
                price = self.pool.prices[index] * (count - before)
                # What costs nothing goes first.
                density = gain / price if price else float("inf")
                heapq.heappush(heap, (-density, index, rung))

        for index in range(len(scores)):
            push(index, 1)
        order = []
        while heap:
            _, index, rung = heapq.heappop(heap)
            order.append((index, self.pool.ladders[index][rung]))
            push(index, rung + 1)
        return order


def pooled(pool: Pool, trainable: Sequence[str]) -> PooledChannels:
    """Return the constraint that a pool means, over its trainable tensors."""
    members = tuple(coupled(c, c.size, trainable) for c in pool.classes)
    return PooledChannels(pool, members, pool.allowed)
