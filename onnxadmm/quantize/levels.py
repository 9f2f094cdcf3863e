"""Levels that weights may take, and the exact projection onto them: one table for training and export.

A weight on levels is a scale times one of a few numbers, and the scale is free. For a scale α each weight takes
its nearest level; as α falls, weights rise from one level to the next, each at |w| / α = the middle of the two.
Between two such events the levels q are fixed, the best scale is <|w|, q> / <q, q>, and the error ||w||² -
<|w|, q>² / <q, q>. So one pass over the events in order, with both sums carried along, meets the levels of the
best scale and finds it. (arXiv 1903.09769, section 3.3, scans a range of scales; alternating levels and scale
stops at local optima.)

Two bounds leave most events out and lose nothing. What lies beyond the last level costs at least its distance, so
scales at which that alone is worse than a known member are too small. And on a uniform grid of which less than
half is used, all levels can be multiplied: the same weights lie on a scale half as large.

The pass takes a dozen nanoseconds an event, which for 8 bits is over a microsecond a weight. Where there are more
than `MOST_EVENTS`, bounds first tell where the best scale of each row can be (`onnxadmm.quantize.scales`): far fewer
events are left, and the projection is as exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxadmm.quantize.ladders import Levels, Uniform, ladder_of
from onnxadmm.quantize.scales import closest_scales
from onnxadmm.spec import WeightQuantization

Array = np.ndarray[Any, Any]

BINARY: Levels = (1.0,)
TERNARY: Levels = (0.0, 1.0)

LARGEST_INT8 = 127
MOST_EVENTS = 1 << 17
"""Of a weight: with more, rows are projected together."""
BATCH_EVENTS = 1 << 21
"""Events that are sorted at once, at about 60 bytes each."""
STARTS = (1.0, 0.8, 0.6, 0.4)
"""Scales, as shares of the one that ends at max|w|, from which a first member is looked for."""
HALVINGS = 8
TIED, SAME = 1e-12, 1e-26
"""Members are tied whose gains differ by less than the first, relatively; their errors decide, and of those that differ
by less than the second, of a row whose largest weight is 1, the larger scale."""


def uniform_levels(bits: int) -> Levels:
    """Return the magnitudes of a symmetric grid: 0 to 2^(bits - 1) - 1.

    Raises:
        ValueError: bits outside 2 to 8.
    """
    if not 2 <= bits <= 8:  # noqa: PLR2004  (the formats that ONNX stores weights in)
        raise ValueError(f"{bits} bits; 2 to 8 are possible")
    return tuple(float(i) for i in range(2 ** (bits - 1)))


def power_levels(bits: int) -> Levels:
    """Return the magnitudes 0, 1, 2, 4, … that fit into so many bits with a sign: 2^(bits - 1) - 1 powers.

    Raises:
        ValueError: bits outside 2 to 6: more powers than a float32 weight can use.
    """
    if not 2 <= bits <= 6:  # noqa: PLR2004
        raise ValueError(f"{bits} bits; 2 to 6 are possible")
    return (0.0, *(float(2**i) for i in range(2 ** (bits - 1) - 1)))


def level_table(weights: WeightQuantization) -> Levels:
    """Return the levels that a spec's section means."""
    if weights.levels == "binary":
        return BINARY
    if weights.levels == "ternary":
        return TERNARY
    if weights.levels == "powers_of_two":
        return power_levels(weights.resolved_bits)
    return uniform_levels(weights.resolved_bits)


def project_levels(
    rows: Array, levels: Levels, support: Array | None = None
) -> tuple[Array, Array]:
    """Return the closest α · q of each row, q from ±levels, α >= 0.

    Where no level is 0, a zero counts as positive; a row of zeros gets scale 0. Of scales that are equally close
    the largest is taken, on uniform grids the largest at which more than half of the levels are in use, on powers of
    two, of many rows, the largest at which the last level is.

    Args:
        rows: Weights [R, C].
        levels: See `Levels`.
        support: Mask [R, C] of what may be nonzero; q is 0 outside of it.

    Returns:
        q [R, C], in float64 or float32, which holds every level; and α [R], in float64. Memory: a few times the
        rows, and 60 bytes an event of a batch.

    Raises:
        ValueError: A weight isn't finite, or levels that aren't ascending from 0 or above.
    """
    table = np.array(levels, np.float64)
    if not levels or levels[0] < 0 or levels[-1] == 0 or bool((np.diff(table) <= 0).any()):
        raise ValueError(f"levels {levels} are not ascending from 0 or above")
    if not np.isfinite(rows).all():
        raise ValueError("a weight is not finite")
    ladder = ladder_of(levels)
    if ladder is not None:
        open_to = rows.size if support is None else int(np.count_nonzero(support))
        if open_to * (len(table) - 1) > MOST_EVENTS:
            left = rows if support is None else np.where(support, rows, np.zeros_like(rows))
            found, exact, others = closest_scales(left, ladder)
            if len(others):
                found[others], exact[others] = _project_rows(left[others], table, left[others] != 0)
            return found, exact
    return _project_rows(rows, table, support)


def _project_rows(rows: Array, table: Array, support: Array | None) -> tuple[Array, Array]:
    """Project row by row; see `project_levels`."""
    x = np.asarray(rows, np.float64)
    magnitudes = np.abs(x) if support is None else np.where(support, np.abs(x), 0.0)
    peaks = magnitudes.max(axis=1, initial=0.0)
    scales = np.zeros(len(x))
    quantized = np.full(x.shape, table[0])
    for i in np.flatnonzero(peaks):
        there = slice(None) if support is None else support[i]
        # Scaled to 1: squares of tiny weights would underflow.
        found, scale = _project_row(magnitudes[i, there] / peaks[i], table)
        quantized[i, there], scales[i] = found, scale * peaks[i]
    quantized = np.where(x < 0, -quantized, quantized)
    return quantized if support is None else np.where(support, quantized, 0.0), scales


def nearest_levels(rows: Array, scales: Array, levels: Levels) -> Array:
    """Return the nearest levels [R, C] of rows [R, C] at given positive scales [R], in float64."""
    table = np.array(levels, np.float64)
    x = np.asarray(rows, np.float64)
    index = np.searchsorted((table[1:] + table[:-1]) / 2, np.abs(x) / scales[:, None], side="left")
    return np.where(x < 0, -table[index], table[index])


def _project_row(x: Array, table: Array) -> tuple[Array, float]:
    """Return the levels of weights [C] in 0 to 1, the largest of them 1, and their scale."""
    middles = (table[1:] + table[:-1]) / 2
    if not len(middles):
        return np.full(len(x), table[0]), float(x.mean() / table[0])
    uniform = isinstance(ladder_of(tuple(table)), Uniform)
    low, high = _bounds(x, table, middles, uniform=uniform)
    squares = np.diff(np.square(table))
    steps = np.diff(table)
    rank = _rank(x / high, middles, uniform=uniform)
    start = table[rank]
    gains, inverses = [np.array([_gain(x, start)])], [np.array([1 / high])]
    for end in _ends(x, middles, rank, low, high):
        until = _rank(x / end, middles, uniform=uniform)
        events = _events(x, middles, rank, until)
        to = events.view(np.uint64) & _LEVEL_BITS
        at = (events.view(np.uint64) & ~_LEVEL_BITS).view(np.float64)
        level = table[rank]
        product = x @ level + np.cumsum(at * middles[to] * steps[to])
        energy = level @ level + np.cumsum(squares[to])
        gain = np.square(product) / energy
        # Equal events happen together.
        gain[:-1][at[:-1] == at[1:]] = -1.0
        tied = np.flatnonzero(gain >= gain.max(initial=0) * (1 - TIED))
        after = np.append(at, end)[tied + 1]
        gains.append(gain[tied])
        inverses.append(2 / (at[tied] + after))
        rank = until
    gain, inverse = np.concatenate(gains), np.concatenate(inverses)
    tied = np.flatnonzero(gain >= gain.max() * (1 - TIED))[: max(16, BATCH_EVENTS // len(x))]
    members = table[_rank(x * inverse[tied, None], middles, uniform=uniform)]
    scales = members @ x / np.maximum(np.square(members).sum(1), table[table > 0][0] ** 2)
    errors = np.square(x - scales[:, None] * members).sum(1)
    # Gains can't tell some apart that errors can: the levels that a row is on leave next to nothing.
    best = int(np.flatnonzero(errors <= errors.min() + SAME * len(x))[0])
    return members[best], float(scales[best])


_LEVEL_BITS = np.uint64(127)
"""The last bits of an event's scale give way to the level that the weight rises from: one sort orders both."""


def _events(x: Array, middles: Array, rank: Array, until: Array) -> Array:
    """Return the scales at which weights rise from rank to until, the largest first, with `_LEVEL_BITS`."""
    rises = until - rank
    first = np.cumsum(rises) - rises
    to = np.arange(int(rises.sum())) - np.repeat(first - rank, rises)
    at = (np.repeat(x, rises) / middles[to]).view(np.uint64)
    # Positive floats are in the order of their bits.
    packed = np.sort((at & ~_LEVEL_BITS) | to.astype(np.uint64))
    return packed[::-1].view(np.float64)


def _rank(scaled: Array, middles: Array, *, uniform: bool) -> Array:
    """Return how many of the middles between levels each of `scaled` [C] has reached."""
    if uniform:
        return np.minimum(np.floor(scaled + 0.5), len(middles)).astype(np.int64)
    return np.searchsorted(middles, scaled, side="right")


def _gain(x: Array, levels: Array) -> float:
    """Return what these levels with their best scale take off ||x||²; -1 where all are 0."""
    energy = float(levels @ levels)
    return float(x @ levels) ** 2 / energy if energy > 0 else -1.0


def _bounds(x: Array, table: Array, middles: Array, *, uniform: bool) -> tuple[float, float]:
    """Return scales between which the best one lies: see the module's docstring."""
    top, energy = table[-1], float(x @ x)
    gain = 0.0
    for share in STARTS:
        gain = max(gain, _gain(x, table[_rank(x * (top / share), middles, uniform=uniform)]))
    known = (energy - gain) + 1e-9 * energy
    # Below `low` the weights beyond the last level alone cost more than the member that is known.
    low, inside = 0.0, 1.0 / top
    for _ in range(HALVINGS):
        middle = (low + inside) / 2
        beyond = np.maximum(x - middle * top, 0.0)
        low, inside = (middle, inside) if float(beyond @ beyond) > known else (low, middle)
    # Above `high` the largest weight is below half of the levels, or on the first one.
    return low, 1 / (int(top) // 2 + 0.5 - 1e-9) if uniform else 2 / middles[0]


def _ends(x: Array, middles: Array, rank: Array, low: float, high: float) -> list[float]:
    """Return where to cut the range of scales so that no piece holds too many events; the last is its end."""
    least = max(low, float(np.finfo(np.float64).tiny))
    reach = np.searchsorted(middles, x / least, side="right")
    pieces = -(-int((reach - rank).sum()) // BATCH_EVENTS)
    # Events lie evenly over 1 / α, as far as levels are even.
    far = 1 / max(least, 1 / (middles[-1] * 2**HALVINGS))
    inverse = np.linspace(1 / high, far, max(pieces, 1) + 1)[1:-1]
    return [*(float(1 / v) for v in inverse), least]
