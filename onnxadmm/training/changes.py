"""How far the change of a metric can be trusted, from the samples that it was measured on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Of the normal distribution, for 95 %.
_Z = 1.959964
# Student's quantile where the expansion below is too far off.
_FEW = {1: 12.7062, 2: 4.3027}


@dataclass(frozen=True, slots=True)
class Change:
    """The 95 % interval of a metric's change.

    Attributes:
        low: Lower end of compressed minus original.
        high: Upper end.
        relative_low: Lower end of the change as a share of the original's value; None where that is 0.
        relative_high: Upper end.
        samples: Over so many.
    """

    low: float
    high: float
    relative_low: float | None
    relative_high: float | None
    samples: int


def paired_change(before: Array, after: Array, *, same: bool, bounded: bool) -> Change | None:
    """Return the interval of the mean of `after` less that of `before`, sample by sample.

    The scores of one sample belong together: samples that both models get right, or both wrong, say
    nothing of their difference. The interval is Student's, over the differences. For scores between 0 and
    1, half a sample more of each outcome is counted (Agresti and Min, "Simple improved confidence
    intervals for comparing matched proportions", 2005), so that no difference in few samples isn't taken
    for none at all. The relative change is a ratio of means, by the delta method.

    Args:
        before: The original's score of each sample [N].
        after: The compressed model's [N].
        same: The two models gave the same outputs, to the bit: then nothing can differ.
        bounded: Scores are between 0 and 1.

    Returns:
        The interval; None for fewer than two samples.
    """
    count = len(before)
    if count < 2:  # noqa: PLR2004  (one has no spread)
        return None
    mean = float(before.mean())
    if same:
        return Change(0.0, 0.0, 0.0, 0.0, count)
    difference = after - before
    change = float(difference.mean())
    spread = _half_width(difference, pseudo=bounded)
    low, high = change - spread, change + spread
    if not mean:
        return Change(low, high, None, None, count)
    ratio = float(after.mean()) / mean
    relative = _half_width(after - ratio * before, pseudo=bounded) / abs(mean)
    share = change / abs(mean)
    return Change(low, high, share - relative, share + relative, count)


def _half_width(values: Array, *, pseudo: bool) -> float:
    """Return half the width of Student's interval of the mean."""
    # Of the four outcomes of a pair one has +1, one -1 and two have 0. Half a sample of each makes two
    # samples more, a sum of 0 and a sum of squares of 1.
    count = len(values) + (2 if pseudo else 0)
    total, squares = float(values.sum()), float(np.square(values).sum()) + (1.0 if pseudo else 0.0)
    variance = max(0.0, (squares - total**2 / count) / (count - 1))
    return student(count - 1) * math.sqrt(variance / count)


def student(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's distribution (Hill 1970, the expansion around the normal)."""
    if degrees in _FEW:
        return _FEW[degrees]
    z, n = _Z, degrees
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )
