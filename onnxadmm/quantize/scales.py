"""The best scales of many rows of weights at once: bounds leave few stretches of scales, which are passed over whole.

Every row goes through four stages, in pieces that stay in a core's cache, on all cores.

1. A rough scale by a formula, and the row's share in a lattice's nodes (`onnxadmm.quantize.bounds`).
2. One matrix product: a lower bound at each of the lattice's inverse scales.
3. A member is fitted where the bound is least. Between two inverse scales nothing survives that must leave more; what
   survives is halved, with what the weights really leave in the middle.
4. All events within what is left (`onnxadmm.quantize.sweeps`).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from onnxadmm.quantize.bounds import ROUNDING, SUMMING, Lattice, lattice_for, least_between
from onnxadmm.quantize.ladders import Ladder
from onnxadmm.quantize.sweeps import Stretches, best_inverse

Array = np.ndarray[Any, Any]

PIECE = 1 << 16
"""Weights that are worked on at once: a few arrays of them fit into a core's cache."""
AT_ONCE = 1 << 24
"""Nodes and columns of all rows that are bounded together."""
LARGEST = 32
"""Parts of a row whose largest weights tell what a scale clips."""
COARSE = np.geomspace(0.1, 1.0, 16)
"""Scales, as shares of the largest that can be best, that are judged by a formula."""
FITS = 2
FEW_EVENTS = 1 / 24
"""So many changes of level a weight are few: passing over them costs about what halving their stretch does."""


def closest_scales(rows: Array, ladder: Ladder) -> tuple[Array, Array, Array]:
    """Return the levels and scales that leave the least squared error of each row.

    Args:
        rows: Finite weights [R, C]; what must stay zero is zero.
        ladder: The levels.

    Returns:
        Levels with their signs [R, C] in float32, scales [R] in float64, and indices of rows of which nothing was
        found, since their best scale may be far off the rough one.
    """
    job = _Job(rows, ladder)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(job.prepare, _pieces(np.arange(len(rows)), rows.shape[1])))
        undecided = [np.zeros(0, np.intp)]
        for part, lattice in job.parts():
            pieces = _pieces(part, rows.shape[1])
            shared = list(pool.map(partial(job.share, lattice), pieces))
            # On all cores by itself.
            left = np.concatenate([s for s, _ in shared]) @ lattice.left
            ends = np.cumsum([len(p) for p in pieces])
            lefts = np.split(left, ends[:-1])
            outers = [outer for _, outer in shared]
            undecided += pool.map(partial(job.finish, lattice), pieces, lefts, outers)
    return job.levels, job.scales, np.concatenate(undecided)


def _pieces(rows: Array, width: int) -> list[Array]:
    step = max(1, PIECE // max(1, width))
    return [rows[i : i + step] for i in range(0, len(rows), step)]


class _Job:
    """One call's rows, and what is known of each."""

    def __init__(self, rows: Array, ladder: Ladder) -> None:
        self.rows, self.ladder = rows, ladder
        self.peaks = np.zeros(len(rows))
        self.rough = np.ones(len(rows))
        self.signal = np.zeros(len(rows))
        self.counts = np.zeros(len(rows))
        self.levels = np.zeros(rows.shape, np.float32)
        self.scales = np.zeros(len(rows))

    # --- weights

    def magnitudes(self, piece: Array) -> Array:
        """Return the magnitudes of a piece's rows in float32, scaled by a power of two so that none is tiny."""
        found = np.abs(self.rows[_lean(piece)])
        found *= self.factors(piece).astype(found.dtype)[:, None]
        return found.astype(np.float32, copy=False)

    def exact(self, piece: Array) -> Array:
        """Return the same in float64, with nothing rounded."""
        found = np.abs(self.rows[_lean(piece)], dtype=np.float64)
        found *= self.factors(piece)[:, None]
        return found

    def factors(self, piece: Array) -> Array:
        """Return the powers of two that bring the largest weight to between 0.5 and 1."""
        _, exponent = np.frexp(self.peaks[piece])
        # The largest power of two that the rows' type holds.
        most = np.finfo(self.rows.dtype).maxexp - 1
        factors: Array = np.ldexp(1.0, np.minimum(-exponent, most))
        return factors

    # --- stages

    def prepare(self, piece: Array) -> None:
        """Find each row's largest weight, and a rough scale."""
        found = np.abs(self.rows[_lean(piece)])
        self.peaks[piece] = found.max(axis=1, initial=0)
        x = self.magnitudes(piece)
        there = x > 0
        full = int(np.count_nonzero(there)) == there.size
        counts = np.full(len(x), x.shape[1]) if full else np.count_nonzero(there, axis=1)
        self.counts[piece] = counts = np.maximum(counts, 1)
        peaks = _peaks(x)
        largest = peaks.max(axis=1)
        energy = np.vecdot(x, x)
        if self.ladder.uniform:
            if self.ladder.top == 1:
                # No formula for evenly spread rests here; of normal weights this is nearly the best.
                rough = 1.2 * np.sqrt(energy / counts)
            else:
                rough = _rough(peaks, counts, self.ladder.top)
            rough = np.where(largest > 0, rough, 1)
            self.signal[piece] = 12 * energy / (counts * np.square(rough))
        else:
            rough, self.signal[piece] = largest / self.ladder.top, 50.0
        self.rough[piece] = np.where(largest > 0, rough, 1)

    def parts(self) -> list[tuple[Array, Lattice]]:
        """Return the rows that aren't zero, as many as are bounded at once, each with a lattice."""
        there = np.flatnonzero(self.peaks)
        if not len(there):
            return []
        weights, signal = np.median(self.counts[there]), np.median(self.signal[there])
        lattice = lattice_for(self.ladder, float(weights), float(signal))
        step = max(1, AT_ONCE // sum(lattice.left.shape))
        return [(there[i : i + step], lattice) for i in range(0, len(there), step)]

    def share(self, lattice: Lattice, piece: Array) -> tuple[Array, Array]:
        """Share the weights of a piece's rows out between a lattice's nodes; see `Lattice.shares`."""
        return lattice.shares(self.magnitudes(piece), self.rough[piece])

    def finish(self, lattice: Lattice, piece: Array, left: Array, outer: Array) -> Array:
        """Find levels and scales of a piece's rows; return those that it can't decide.

        Inverse scales and errors are in units of the rough scales.
        """
        if outer.any():
            left = left + lattice.clipped(outer).astype(np.float32) * np.float32(1 - SUMMING)
        x, rough = self.magnitudes(piece), self.rough[piece]
        left, beyond = left[:, :-1], left[:, -1]
        columns = lattice.columns
        start = columns[(left / np.square(columns).astype(np.float32)).argmin(1)]
        most = self._fitted(x, start / rough) / np.square(rough)
        least = self.ladder.middles[self.ladder.least_rank - 1] * (1 - 1e-6) * rough / x.max(axis=1)
        undecided = beyond / columns[-1] ** 2 <= most
        undecided |= self._open_below(
            x, np.flatnonzero(least < columns[0]), columns[0], most, rough
        )
        energy = np.vecdot(x, x) / np.square(rough)
        known = _surviving(columns, left, energy, most)
        known = known.only(~undecided[known.row] & (known.end >= least[known.row]))
        known = self._narrowed(x, known, most, rough, self.counts[piece])
        known = known.only(known.end >= least[known.row])
        exact = self.exact(piece)
        stretches = known.joined(1 / rough)
        inverse = best_inverse(x, exact, stretches, self.ladder, PIECE)
        self._settle(piece, exact, inverse, ~undecided)
        others: Array = piece[undecided]
        return others

    def _narrowed(
        self, x: Array, known: _Survivors, most: Array, rough: Array, weights: Array
    ) -> _Survivors:
        """Halve stretches that hold many events until none is left of them, or few are; lowers `most`."""
        energy, sums = np.vecdot(x, x) / np.square(rough), x.sum(1) / rough
        while True:
            events = self.ladder.changes(
                known.start, known.end, weights[known.row], sums[known.row]
            )
            many = events > x.shape[1] * FEW_EVENTS
            if not many.any():
                return known
            wide, narrow = known.only(many), known.only(~many)
            middle = (wide.start + wide.end) / 2
            left = self._left(x, wide.row, middle / rough[wide.row])
            np.minimum.at(most, wide.row, left / np.square(middle) * (1 + SUMMING))
            left *= 1 - SUMMING
            left -= ROUNDING * self.ladder.gap * middle * sums[wide.row]
            known = wide.halved(middle, left).beside(narrow)
            known = known.only(known.least(energy) <= most[known.row])

    def _open_below(self, x: Array, rows: Array, first: float, most: Array, rough: Array) -> Array:
        """Return which rows may have their best inverse scale below the first column."""
        found = np.zeros(len(x), np.bool_)
        if len(rows):
            # There these weights are on level 0.
            small = x[rows] <= (self.ladder.middles[0] / first * rough[rows])[:, None]
            part = np.where(small, x[rows], 0)
            lost = np.vecdot(part, part) / np.square(rough[rows]) * (1 - SUMMING)
            found[rows] = lost <= most[rows]
        return found

    def _settle(self, piece: Array, exact: Array, inverse: Array, decided: Array) -> None:
        """Write the nearest levels at these inverse scales, and the scales that fit them best."""
        found = self.ladder.nearest(exact * inverse[:, None])
        energy = np.vecdot(found, found)
        scales = np.vecdot(exact, found) / np.where(energy > 0, energy, 1) / self.factors(piece)
        levels = np.copysign(found, self.rows[_lean(piece)], dtype=np.float32, casting="same_kind")
        levels += 0  # no minus zeros
        if decided.all():
            self.levels[_lean(piece)], self.scales[piece] = levels, scales
        else:
            self.levels[piece[decided]], self.scales[piece[decided]] = (
                levels[decided],
                scales[decided],
            )

    # --- errors

    def _fitted(self, x: Array, inverse: Array) -> Array:
        """Return what a member near these inverse scales leaves, [R]."""
        for _ in range(FITS):
            nearest = self.ladder.nearest(x * inverse.astype(np.float32)[:, None])
            product, energy = np.vecdot(x, nearest), np.vecdot(nearest, nearest)
            inverse = np.where(product > 0, energy / np.where(product > 0, product, 1), inverse)
        units = x * inverse.astype(np.float32)[:, None]
        units -= self.ladder.nearest(units)
        left: Array = np.vecdot(units, units) / np.square(inverse) * (1 + SUMMING)
        return left

    def _left(self, x: Array, row: Array, inverse: Array) -> Array:
        """Return what rows leave in units at inverse scales."""
        found = np.empty(len(row))
        step = max(1, PIECE // max(1, x.shape[1]))
        for i in range(0, len(row), step):
            part = slice(i, i + step)
            units = x[row[part]]
            units *= inverse[part].astype(np.float32)[:, None]
            units -= self.ladder.nearest(units)
            found[part] = np.vecdot(units, units)
        return found


@dataclass(frozen=True)
class _Survivors:
    """Stretches of inverse scales that may hold the best one, by row and start, each with what is left at its ends."""

    row: Array
    start: Array
    end: Array
    left_start: Array
    left_end: Array

    def only(self, mask: Array) -> _Survivors:
        """Return those of a mask."""
        parts = (self.row, self.start, self.end, self.left_start, self.left_end)
        return _Survivors(*(p[mask] for p in parts))

    def least(self, energy: Array) -> Array:
        """Return at least what each leaves, of rows of these energies."""
        return least_between(energy[self.row], self.start, self.end, self.left_start, self.left_end)

    def halved(self, middle: Array, left: Array) -> _Survivors:
        """Return both halves of each, for what is left in the middle."""
        return _Survivors(
            np.repeat(self.row, 2),
            _alternate(self.start, middle),
            _alternate(middle, self.end),
            _alternate(self.left_start, left),
            _alternate(left, self.left_end),
        )

    def beside(self, other: _Survivors) -> _Survivors:
        """Return these and others, by row and start."""
        order = np.lexsort((np.append(self.start, other.start), np.append(self.row, other.row)))
        return _Survivors(
            np.append(self.row, other.row)[order],
            np.append(self.start, other.start)[order],
            np.append(self.end, other.end)[order],
            np.append(self.left_start, other.left_start)[order],
            np.append(self.left_end, other.left_end)[order],
        )

    def joined(self, unit: Array) -> Stretches:
        """Return stretches of which those that touch are one, times a unit of each row."""
        if not len(self.row):
            return Stretches(self.row, self.start, self.end)
        anew = np.ones(len(self.row), np.bool_)
        anew[1:] = (self.row[1:] != self.row[:-1]) | (self.start[1:] != self.end[:-1])
        last = np.append(np.flatnonzero(anew)[1:] - 1, len(self.row) - 1)
        row = self.row[anew]
        return Stretches(row, self.start[anew] * unit[row], self.end[last] * unit[row])


def _surviving(columns: Array, left: Array, energy: Array, most: Array) -> _Survivors:
    """Return what lies between two columns and needn't leave more than `most`."""
    # Loose and quick first: the ends, less the most that lies below the line between them.
    below = np.square(np.diff(columns)) / 4
    loose = np.minimum(left[:, :-1], left[:, 1:])
    loose -= energy.astype(np.float32)[:, None] * below.astype(np.float32)
    limit = (most * (1 + SUMMING)).astype(np.float32)[:, None]
    row, column = np.nonzero(loose <= limit * np.square(columns[1:]).astype(np.float32))
    ends = (columns[column], columns[column + 1])
    lefts = (left[row, column].astype(np.float64), left[row, column + 1].astype(np.float64))
    found = _Survivors(row, *ends, *lefts)
    return found.only(found.least(energy) <= most[row])


def _lean(piece: Array) -> slice | Array:
    """Return an index that takes no copy, where rows follow each other."""
    whole = int(piece[-1]) - int(piece[0]) == len(piece) - 1
    return slice(int(piece[0]), int(piece[-1]) + 1) if whole else piece


def _alternate(a: Array, b: Array) -> Array:
    return np.stack([a, b], 1).ravel()


def _peaks(rows: Array) -> Array:
    """Return the largest weight of each of `LARGEST` parts of a row, and of what is left over."""
    size = rows.shape[1]
    parts = min(size, LARGEST)
    each = size // parts
    peaks: Array = rows[:, : parts * each].reshape(len(rows), parts, each).max(2)
    if parts * each == size:
        return peaks
    return np.concatenate([peaks, rows[:, parts * each :].max(1, keepdims=True)], axis=1)


def _rough(peaks: Array, sizes: Array, top: float) -> Array:
    """Return scales by a formula: weights lie evenly between levels, and the largest are clipped."""
    # Above this the largest weight is not on the last level, where all levels could be one higher.
    largest = peaks.max(axis=1, keepdims=True)
    tried = largest * (COARSE / (top - 0.5)).astype(np.float32)
    beyond = np.maximum(peaks[:, None, :] - np.float32(top) * tried[:, :, None], 0)
    error = sizes[:, None] / 12 * np.square(tried) + np.einsum("rsb,rsb->rs", beyond, beyond)
    best: Array = np.take_along_axis(tried, error.argmin(1)[:, None], axis=1)[:, 0].astype(
        np.float64
    )
    return best
