"""The best levels of many rows within stretches of inverse scales, by passing over every change of a level.

As the inverse scale b grows weights rise from level to level, each where x · b is the middle of two. Between two such
events the levels q are fixed, and the best scale leaves ||x||² - <x, q>² / <q, q>; see `onnxadmm.quantize.levels`.

Sorting events is what costs. So each stretch is cut into equal bins first; counting tells both sums where one bin ends
and the next begins, which bounds what can be found inside (`onnxadmm.quantize.bounds`). Only the events of bins that may
hold the best are sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxadmm.quantize.bounds import ROUNDING, SUMMING, least_between
from onnxadmm.quantize.ladders import Ladder

Array = np.ndarray[Any, Any]

MARGIN = 2.0**-16
"""Stretches are longer by this: levels at their ends are found in float32, and may be off there."""
A_BIN = 12
"""Events that share a bin, about."""
NEVER_FIRST = 2.0**-30
"""In bins: where a bin starts comes before its events."""
SLACK = 1e-13
"""Of ||x||²: rounding of what levels leave, in float64."""


@dataclass
class Stretches:
    """Where the best inverse scales of rows can be.

    Attributes:
        rows: Row of each stretch, ascending, [S].
        start: Inverse scales [S] float64, ascending within a row.
        end: Larger ones [S].
    """

    rows: Array
    start: Array
    end: Array


@dataclass
class _Events:
    """Changes of a level.

    Attributes:
        at: Inverse scale.
        product: What it adds to <x, q>.
        energy: What it adds to <q, q>.
    """

    at: Array
    product: Array
    energy: Array

    def only(self, chosen: Array) -> _Events:
        """Return those of an index."""
        return _Events(*(p.take(chosen) for p in (self.at, self.product, self.energy)))


@dataclass
class _Bins:
    """Equal parts of stretches, and the sums of the levels at their ends.

    Attributes:
        edges: Inverse scales, [S, bins + 1].
        products: <x, q> there.
        energies: <q, q> there.
    """

    edges: Array
    products: Array
    energies: Array

    @property
    def count(self) -> int:
        """Of one stretch."""
        return int(self.edges.shape[1]) - 1

    def open(self, squares: Array, slack: Array, rows: Array) -> Array:
        """Return the bins, [S, bins], that may hold the best levels of their row.

        Args:
            squares: ||x||² of each stretch's row.
            slack: Sums of the rows' weights: what is left at an edge may be less by a little of them.
            rows: Row of each stretch.
        """
        b = self.edges
        left = np.square(b) * squares[:, None] - 2 * b * self.products + self.energies
        left = left * (1 - SUMMING) - b * slack[:, None]
        least = least_between(squares[:, None], b[:, :-1], b[:, 1:], left[:, :-1], left[:, 1:])
        gains = np.square(self.products) / np.where(self.energies > 0, self.energies, np.inf)
        most = np.full(rows[-1] + 1, np.inf)
        np.minimum.at(most, rows, squares - gains.max(axis=1))
        found: Array = least <= (most[rows] + SLACK * squares)[:, None]
        return found


def best_inverse(
    rows: Array, exact: Array, stretches: Stretches, ladder: Ladder, at_once: int
) -> Array:
    """Return for each row an inverse scale at which its nearest levels are the best of all its stretches.

    Of equally good ones the smallest is taken.

    Args:
        rows: Magnitudes [R, C] float32.
        exact: The same in float64.
        stretches: See there.
        ladder: The levels.
        at_once: Weights that are looked at together.

    Returns:
        Inverse scales [R] float64; 0 for a row without a stretch.
    """
    gain, found = np.full(len(rows), -1.0), np.zeros(len(rows))
    step = max(1, at_once // max(1, rows.shape[1]))
    for first in range(0, len(stretches.rows), step):
        part = slice(first, first + step)
        piece = Stretches(
            stretches.rows[part],
            stretches.start[part] * (1 - MARGIN),
            stretches.end[part] * (1 + MARGIN),
        )
        gains, at = _sweep(rows, exact, piece, ladder)
        # Of the parts of a row the first that is best.
        for whose, most, where in zip(piece.rows, gains, at, strict=True):
            if most > gain[whose]:
                gain[whose], found[whose] = most, where
    return found


def _sweep(rows: Array, exact: Array, piece: Stretches, ladder: Ladder) -> tuple[Array, Array]:
    """Return the largest gain of each stretch [S], and an inverse scale where its levels are the nearest [S].

    Of stretches that can't hold the best of their row the gain may be less than the largest.
    """
    x = rows[piece.rows]
    slack = ROUNDING * ladder.gap * x.sum(1)
    before = ladder.ranks(x * piece.start.astype(np.float32)[:, None])
    x *= piece.end.astype(np.float32)[:, None]
    after = ladder.ranks(x)
    risen = after != before
    counts = np.count_nonzero(risen, axis=1)
    flat = np.flatnonzero(risen)
    wide = exact[piece.rows].astype(np.float64, copy=False)
    levels = (before if ladder.uniform else ladder.table[before]).astype(np.float64, copy=False)
    product, energy = np.vecdot(wide, levels), np.vecdot(levels, levels)
    weight, to, rises = wide.take(flat), before.take(flat), after.take(flat)
    rises -= to
    to, stretch = to.astype(np.intp), np.repeat(np.arange(len(x)), counts)
    again = np.flatnonzero(rises > 1)
    if len(again):
        more = rises[again].astype(np.intp) - 1
        each = np.arange(int(more.sum())) - np.repeat(np.cumsum(more) - more - 1, more)
        again = np.repeat(again, more)
        weight, stretch = (np.concatenate([a, a[again]]) for a in (weight, stretch))
        to = np.concatenate([to, to[again] + each])
    middle, step = ladder.middles.take(to), ladder.steps.take(to)
    events = _Events(middle / weight, weight * step, 2 * middle * step)
    count = max(1, len(events.at) // (A_BIN * len(wide)))
    width = (piece.end - piece.start) / count
    place = events.at - piece.start.take(stretch)
    place *= (1 / width).take(stretch)
    np.clip(place, NEVER_FIRST, count - NEVER_FIRST, out=place)
    place += (np.arange(len(x)) * float(count)).take(stretch)
    whose = place.astype(np.intp)
    bins = _Bins(
        piece.start[:, None] + width[:, None] * np.arange(count + 1),
        _running(product, whose, events.product, count),
        _running(energy, whose, events.energy, count),
    )
    if count > 1:
        kept = bins.open(np.vecdot(wide, wide), slack, piece.rows).ravel()
        chosen = np.flatnonzero(kept.take(whose))
        return _sorted(events.only(chosen), place.take(chosen), bins, np.flatnonzero(kept))
    return _sorted(events, place, bins, np.arange(len(wide)))


def _running(start: Array, whose: Array, values: Array, count: int) -> Array:
    """Return sums at the ends of bins, [S, count + 1], of values that are added within bins."""
    found = np.zeros((len(start), count + 1))
    found[:, 1:] = np.bincount(whose, values, len(start) * count).reshape(-1, count)
    np.cumsum(found, axis=1, out=found)
    found += start[:, None]
    return found


def _sorted(events: _Events, place: Array, bins: _Bins, kept: Array) -> tuple[Array, Array]:
    """Return the largest gain of each stretch [S] within bins, and an inverse scale where its levels are the nearest.

    Args:
        events: Those of the kept bins.
        place: Where they lie, in bins from the first one on.
        bins: All bins.
        kept: Indices of those that count, ascending.
    """
    stretch, column = np.divmod(kept, bins.count)
    # A bin starts with the levels of its first edge. Events that `place` doesn't tell apart happen together.
    key = np.concatenate([kept.astype(np.float64), place])
    order = np.argsort(key)
    key = key[order]
    at = np.concatenate([bins.edges[stretch, column], events.at])[order]
    starts = order < len(kept)
    first, bin_of = np.flatnonzero(starts), np.cumsum(starts) - 1
    nothing = np.zeros(len(kept))
    product = _within(np.concatenate([nothing, events.product])[order], first, bin_of)
    energy = _within(np.concatenate([nothing, events.energy])[order], first, bin_of)
    product += bins.products[stretch, column][bin_of]
    energy += bins.energies[stretch, column][bin_of]
    gains = np.square(product) / np.where(energy > 0, energy, np.inf)
    gains[:-1][key[1:] == key[:-1]] = -1.0
    until = np.append(at[1:], 0.0)
    until[np.append(first[1:], len(at)) - 1] = bins.edges[stretch, column + 1]
    best, inverse = np.full(len(bins.edges), -1.0), np.zeros(len(bins.edges))
    if len(kept):
        anew = np.flatnonzero(np.diff(stretch, prepend=-1))
        some = stretch[anew]
        best[some] = np.maximum.reduceat(gains, first[anew])
        hit = np.flatnonzero(gains == best[stretch][bin_of])[::-1]
        # The first of equal ones is written last.
        inverse[stretch[bin_of[hit]]] = (at[hit] + until[hit]) / 2
    return best, inverse


def _within(values: Array, first: Array, segment: Array) -> Array:
    """Return running sums that start anew with each segment, of which `first` are the first."""
    total = np.cumsum(values)
    sums: Array = total - (total[first] - values[first])[segment]
    return sums
