"""Scales of uniform grids for many weights at once: a search, where the exact sweep would take too long.

At a scale α each weight takes its nearest level, and what is left is a sum of squares that is smooth from far away and
rough close by: weights change level one by one. So scales are tried in three rounds, coarse ones on a part of each row,
then finer ones on all of it; in the end levels and scale are fitted to each other in turn, which never loses.
Rows are worked on in pieces that stay in a core's cache, on all cores.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

PIECE = 1 << 16
"""Weights that are worked on at once: three arrays of them fit into a core's cache."""
LARGEST = 64
"""Parts of a row whose largest weights tell what a scale clips."""
FEW_PEAKS = 8
"""Of those, on which a row that is on levels already is known."""
COARSE = np.geomspace(0.1, 1.0, 48)
"""Scales, as shares of the largest that can be best, that are judged by a formula."""
FEWEST, MOST = 10, 64
"""Scales that are tried on the weights themselves: more on short rows, where the formula and the error are rougher."""
APART, FARTHEST_APART = 2.0, 0.07
"""From one of them to the next, as a share of the best coarse scale, which is in their middle: 2 over the levels."""
WIDEST = 0.5
FITS = 2
STRETCH = 512


def search_scales(rows: Array, top: int) -> tuple[Array, Array]:
    """Return levels and scales that leave next to the least squared error.

    Args:
        rows: Weights [R, C]; what must stay zero is zero.
        top: The largest level; the others are the whole numbers from 0 on.

    Returns:
        Levels with their signs [R, C] in float32, and scales [R] in float64.

    Raises:
        ValueError: A weight isn't finite.
    """
    levels = np.empty(rows.shape, np.float32)
    scales = np.empty(len(rows), np.float64)
    step = max(1, PIECE // max(1, rows.shape[1]))

    def work(start: int) -> None:
        piece = slice(start, start + step)
        magnitudes = np.abs(rows[piece])
        peaks = magnitudes.max(axis=1, initial=0)
        if not np.isfinite(peaks).all():
            raise ValueError("a weight is not finite")
        # Scaled to 1: squares of tiny weights would underflow.
        magnitudes /= np.where(peaks > 0, peaks, 1)[:, None]
        found = _search(magnitudes.astype(np.float32, copy=False), levels[piece], np.float32(top))
        scales[piece] = found * peaks
        np.copysign(levels[piece], rows[piece], out=levels[piece])
        levels[piece] += 0  # no minus zeros

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(work, range(0, len(rows), step)))
    return levels, scales


def _search(rows: Array, levels: Array, top: np.float32) -> Array:
    """Write the levels of a few rows and return their scales."""
    if top == 1:
        return _ternary(rows, levels)
    trials = int(np.clip(8192 // rows.shape[1], FEWEST, MOST))
    apart = min(APART / float(top), FARTHEST_APART)
    width = min(apart * trials / 2, WIDEST)
    peaks = _peaks(rows)
    rough = _rough(peaks, rows.shape[1], top)
    tried = [rough * share for share in np.linspace(1 - width, 1 + width, trials, dtype=np.float32)]
    scales = _best(rows, levels, [*tried, _of_grid(peaks, top)], top)
    for _ in range(FITS):
        _nearest(rows, levels, scales, top)
        scales = _fitted(rows, levels, scales)
    _nearest(rows, levels, scales, top)
    energy = _dot(levels, levels)
    fitted: Array = _dot(rows, levels) / np.where(energy > 0, energy, 1)
    return fitted


def _ternary(rows: Array, levels: Array) -> Array:
    """Write the levels 0 and 1 that leave least, and return their scales: of the k largest weights, the mean."""
    ordered = np.sort(rows, axis=1)[:, ::-1]
    sums = np.cumsum(ordered, axis=1, dtype=np.float64)
    gain = np.square(sums) / np.arange(1, rows.shape[1] + 1)
    # Equal weights take the same level.
    gain[:, :-1][ordered[:, :-1] == ordered[:, 1:]] = -1
    count = gain.argmax(axis=1)[:, None]
    least = np.take_along_axis(ordered, count, axis=1)
    np.copyto(levels, (rows >= least) & (rows > 0))
    fitted: Array = np.take_along_axis(sums, count, axis=1)[:, 0] / (count[:, 0] + 1)
    return fitted


def _peaks(rows: Array) -> Array:
    """Return the largest weight of each of `LARGEST` parts of a row, and of what is left over."""
    size = rows.shape[1]
    parts = min(size, LARGEST)
    each = size // parts
    peaks: Array = rows[:, : parts * each].reshape(len(rows), parts, each).max(2)
    if parts * each == size:
        return peaks
    return np.concatenate([peaks, rows[:, parts * each :].max(1, keepdims=True)], axis=1)


def _rough(peaks: Array, size: int, top: np.float32) -> Array:
    """Return scales by a formula: weights lie evenly between levels, and the largest are clipped."""
    # Above this the largest weight is not on the last level, where all levels could be one higher.
    tried = (COARSE / (top - 0.5)).astype(np.float32)
    beyond = np.maximum(peaks[:, None, :] - top * tried[:, None], 0)
    error = size / 12 * np.square(tried) + np.einsum("rsb,rsb->rs", beyond, beyond)
    best: Array = tried[error.argmin(1)]
    return best


def _of_grid(peaks: Array, top: np.float32) -> Array:
    """Return the scales of rows that are on levels already, such as were projected before: there is one that fits."""
    steps = np.arange(int(top) // 2 + 1, int(top) + 1, dtype=np.float32)
    at = peaks[:, :FEW_PEAKS, None] * steps
    off = np.abs(at - np.rint(at)).max(axis=1)
    fitting: Array = 1 / steps[off.argmin(1)]
    return fitting


def _best(rows: Array, levels: Array, scales: Sequence[Array], top: np.float32) -> Array:
    """Return, for each row, that of the scales which leaves least."""
    steps, least, best = np.empty_like(rows), np.full(len(rows), np.inf, np.float32), scales[0]
    for tried in scales:
        _nearest(rows, levels, tried, top, steps)
        np.subtract(steps, levels, out=steps)
        error = np.einsum("rc,rc->r", steps, steps) * np.square(tried)
        best = np.where(error < least, tried, best)
        least = np.minimum(error, least)
    return best


def _nearest(
    rows: Array, levels: Array, scales: Array, top: np.float32, steps: Array | None = None
) -> None:
    """Write the levels nearest to the rows at these scales; `steps` receives what they are nearest to."""
    steps = np.multiply(rows, (1 / scales)[:, None], out=levels if steps is None else steps)
    np.rint(steps, out=levels)
    np.minimum(levels, top, out=levels)


def _dot(a: Array, b: Array) -> Array:
    """Return the rows' scalar products in float64, of stretches that float32 still sums well."""
    total = np.zeros(len(a))
    for start in range(0, a.shape[1], STRETCH):
        stretch = slice(start, start + STRETCH)
        total += np.einsum("rc,rc->r", a[:, stretch], b[:, stretch])
    return total


def _fitted(rows: Array, levels: Array, scales: Array) -> Array:
    """Return the scales that fit these levels best; those that there were where all levels are 0."""
    product = np.einsum("rc,rc->r", rows, levels)
    energy = np.einsum("rc,rc->r", levels, levels)
    return np.where(energy > 0, product / np.where(energy > 0, energy, 1), scales)
