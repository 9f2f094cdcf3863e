"""The best levels of many rows within stretches of inverse scales, by passing over every change of a level.

As the inverse scale b grows weights rise from level to level, each where x · b is the middle of two. Between two such
events the levels q are fixed, and the best scale leaves ||x||² - <x, q>² / <q, q>; see `onnxadmm.quantize.levels`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxadmm.quantize.ladders import Ladder

Array = np.ndarray[Any, Any]

MARGIN = 2.0**-16
"""Stretches are longer by this: levels at their ends are found in float32, and may be off there."""


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
        order = np.lexsort((np.arange(len(at)), -gains, piece.rows))
        whose, best = np.unique(piece.rows[order], return_index=True)
        best = order[best]
        better = gains[best] > gain[whose]
        gain[whose[better]], found[whose[better]] = gains[best[better]], at[best[better]]
    return found


def _sweep(rows: Array, exact: Array, piece: Stretches, ladder: Ladder) -> tuple[Array, Array]:
    """Return the largest gain of each stretch [S], and an inverse scale where its levels are the nearest [S]."""
    x = rows[piece.rows]
    before = ladder.ranks(x * piece.start.astype(np.float32)[:, None])
    x *= piece.end.astype(np.float32)[:, None]
    after = ladder.ranks(x)
    levels = (before if ladder.uniform else ladder.table[before]).astype(np.float64, copy=False)
    product, energy = np.vecdot(exact[piece.rows], levels), np.vecdot(levels, levels)
    flat = np.flatnonzero(after != before)
    stretch, column = np.divmod(flat, rows.shape[1])
    at, to, weight, stretch = _events(
        exact[piece.rows[stretch], column],
        before.ravel()[flat].astype(np.int64),
        after.ravel()[flat].astype(np.int64),
        stretch,
        ladder,
    )
    # One sort orders all stretches. Events nearer to each other than it tells apart happen together.
    scale = (1 - 2.0**-20) / (piece.end - piece.start)
    key = np.maximum(at - piece.start[stretch], 0) * scale[stretch]
    np.minimum(key, 1 - 2.0**-20, out=key)
    key += stretch
    order = np.argsort(key)
    key, at, to = key[order], at[order], to[order]
    counts = np.bincount(stretch, minlength=len(x))
    stretch = np.repeat(np.arange(len(x)), counts)
    ends = np.cumsum(counts)
    step = ladder.steps[to]
    products = _within(weight[order] * step, counts, ends) + product[stretch]
    energies = _within(step * (2 * ladder.middles[to]), counts, ends) + energy[stretch]
    gains = np.square(products) / energies
    gains[:-1][key[1:] == key[:-1]] = -1.0
    # The levels at the start of a stretch come before its events.
    best = np.square(product) / np.where(energy > 0, energy, np.inf)
    place = np.full(len(x), -1)
    some = np.flatnonzero(counts)
    if len(some):
        most = np.maximum.reduceat(gains, ends[some] - counts[some])
        hit = np.flatnonzero(gains == np.repeat(most, counts[some]))
        _, index = np.unique(stretch[hit], return_index=True)
        later = most > best[some]
        best[some[later]], place[some[later]] = most[later], hit[index[later]]
    following = np.where(place < 0, ends - counts, place + 1)
    padded = np.append(at, 0.0)
    upper = np.where(following < ends, padded[np.minimum(following, len(at))], piece.end)
    lower = np.where(place < 0, piece.start, padded[place])
    return best, (lower + upper) / 2


def _events(
    x: Array, before: Array, after: Array, stretch: Array, ladder: Ladder
) -> tuple[Array, Array, Array, Array]:
    """Return where each weight rises, from which rank, the weight, and its stretch: one a rise."""
    rises = after - before
    count = int(rises.sum())
    to = np.arange(count) - np.repeat(np.cumsum(rises) - rises - before, rises)
    weight = np.repeat(x, rises)
    return ladder.middles[to] / weight, to, weight, np.repeat(stretch, rises)


def _within(values: Array, counts: Array, ends: Array) -> Array:
    """Return running sums that start anew with each stretch."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    sums: Array = total[1:] - np.repeat(total[ends - counts], counts)
    return sums
