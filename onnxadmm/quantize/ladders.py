"""Lists of levels whose nearest one a formula finds: the whole numbers, and the powers of two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Levels = tuple[float, ...]
"""The magnitudes of a set, ascending; 0 among them where zero is a level."""

FARTHEST = 2.0**20
"""The largest last level."""


class Ladder(ABC):
    """Levels from 0 on, evenly spaced or doubling.

    Where a row's largest weight lies so low that a higher level could serve it, a smaller scale gives the same weights:
    `least_rank` is the lowest rank that the largest weight need have.

    Attributes:
        levels: The levels, ascending, as they were given.
        table: The same as an array, float64.
        middles: Between one level and the next; half way the larger one is taken.
        top: The last level.
        steps: From one level to the next.
        gap: The largest distance between two levels.
    """

    uniform: bool
    least_rank: int

    def __init__(self, levels: Levels) -> None:
        """Take the levels."""
        self.levels = levels
        self.table = np.array(levels, np.float64)
        self.middles = (self.table[1:] + self.table[:-1]) / 2
        self.top = float(self.table[-1])
        self.steps = np.diff(self.table)
        self.gap = float(self.steps.max())

    @abstractmethod
    def nearest(self, units: Array) -> Array:
        """Return the levels nearest to units >= 0, of the same type; near the middle of two either one."""

    @abstractmethod
    def ranks(self, units: Array) -> Array:
        """Return how many of the middles units >= 0 have reached, up to rounding, as whole numbers of any type.

        The units may be overwritten.
        """

    @abstractmethod
    def changes(self, start: Array, end: Array, weights: Array, sums: Array) -> Array:
        """Return about how many changes of level rows have between inverse scales.

        Args:
            start: Inverse scales.
            end: Larger ones.
            weights: How many weights a row has that aren't zero.
            sums: Of those weights.
        """


class Uniform(Ladder):
    """0, 1, 2, and so on."""

    uniform = True

    def __init__(self, levels: Levels) -> None:
        """Take the levels; of which less than half are in use all can be doubled."""
        super().__init__(levels)
        self.least_rank = int(self.top) // 2 + 1

    def nearest(self, units: Array) -> Array:
        """Round, and clip; see `Ladder.nearest`."""
        rounded: Array = np.rint(units)
        np.minimum(rounded, units.dtype.type(self.top), out=rounded)
        return rounded

    def ranks(self, units: Array) -> Array:
        """Levels are their own ranks; see `Ladder.ranks`."""
        np.rint(units, out=units)
        np.minimum(units, units.dtype.type(self.top), out=units)
        return units

    def changes(self, start: Array, end: Array, weights: Array, sums: Array) -> Array:
        """A weight rises by as many levels as its units grow by; see `Ladder.changes`."""
        del weights
        return (end - start) * sums


class Doubling(Ladder):
    """0, 1, 2, 4, and so on."""

    uniform = False

    def __init__(self, levels: Levels) -> None:
        """Take the levels; if the last isn't in use all can be doubled."""
        super().__init__(levels)
        self.least_rank = len(levels) - 1

    def nearest(self, units: Array) -> Array:
        """Look the levels up; see `Ladder.nearest`."""
        return self.table.astype(units.dtype)[self.ranks(units.copy())]

    def ranks(self, units: Array) -> Array:
        """Read the exponents of the floats; see `Ladder.ranks`."""
        # Above 0.75 the middles are 1.5 times the powers of two.
        low = units >= 0.5  # noqa: PLR2004
        units *= units.dtype.type(2 / 3)
        narrow = units.dtype == np.float32
        bits: Array = units.view(np.int32 if narrow else np.int64)
        found: Array = np.right_shift(bits, 23 if narrow else 52)
        found -= 127 - 2 if narrow else 1023 - 2
        np.maximum(found, low, out=found)
        np.minimum(found, len(self.middles), out=found)
        return found

    def changes(self, start: Array, end: Array, weights: Array, sums: Array) -> Array:
        """A weight rises by one level where its units double; see `Ladder.changes`."""
        del sums
        return np.log2(end / start) * weights


def ladder_of(levels: Levels) -> Ladder | None:
    """Return the ladder that levels form; None where no formula finds the nearest.

    None also where levels reach so far down that what a weight there leaves vanishes beside the others' rounding.
    """
    table = np.array(levels)
    if len(levels) > 1 and bool((table == np.arange(len(table))).all()):
        return Uniform(levels)
    doubling = levels[:1] == (0,) and bool((table[1:] == 2.0 ** np.arange(len(table) - 1)).all())
    if len(levels) > 1 and doubling and levels[-1] <= FARTHEST:
        return Doubling(levels)
    return None
