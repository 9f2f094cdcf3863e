"""Classes that share one budget: an entry of scope `global` says what goes of all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxadmm.channels.classes import ChannelClass
from onnxadmm.channels.costs import Cost
from onnxadmm.channels.selection import default_step, least_count
from onnxadmm.errors import SpecError
from onnxadmm.spec import Prune


@dataclass(frozen=True)
class Pool:
    """Classes under one budget.

    Attributes:
        name: For messages and residuals.
        classes: The classes, in graph order.
        ladders: For each class the counts it may keep, ascending: the least, then multiples of `round_to`,
            then all.
        prices: What one channel of each class costs while the others are whole; scores are divided by it.
        cost: What is left when the classes keep so many channels each.
        allowed: What may be left.
    """

    name: str
    classes: tuple[ChannelClass, ...]
    ladders: tuple[tuple[int, ...], ...]
    prices: tuple[float, ...]
    cost: Cost
    allowed: float


def make_pool(
    name: str,
    classes: Sequence[ChannelClass],
    rule: Prune,
    prices: Sequence[float],
    cost: Cost,
) -> Pool:
    """Return the pool that an entry of scope `global` means.

    Args:
        name: For messages.
        classes: The classes that the entry holds for.
        rule: The entry.
        prices: See `Pool`.
        cost: See `Pool`; it counts in the entry's unit.

    Raises:
        SpecError: Even the least that may be kept costs more than the entry leaves.
    """
    ladders = tuple(counts(c.size, rule) for c in classes)
    whole, least = cost([c.size for c in classes]), cost([ladder[0] for ladder in ladders])
    allowed = whole * (1 - rule.amount)
    if least > allowed:
        bound = int(1e6 * (1 - least / whole)) / 1e6
        raise SpecError(
            f"{name}: amount {rule.amount:g} leaves {allowed:.0f} {rule.unit or 'parameters'} of {whole}, but "
            f"min_channels and round_to keep {least}; at most {bound:g} can go"
        )
    return Pool(name, tuple(classes), ladders, tuple(prices), cost, allowed)


def counts(size: int, rule: Prune) -> tuple[int, ...]:
    """Return the counts that a class of this size may keep under a rule, ascending."""
    step, least = rule.round_to or default_step(size), least_count(size, rule)
    return (least, *range(least - least % step + step, size, step), *([size] * (least < size)))


def channels_left(kept: Sequence[int]) -> int:
    """Return how many channels are left: the cost in unit `channels`."""
    return sum(kept)
