"""The best scales of many rows of weights at once: bounds leave few stretches of scales, which are passed over whole.

Every row goes through four stages, some rows at a time, on all cores.

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
from typing import Any

import numpy as np

from onnxadmm.quantize.bounds import ROUNDING, SUMMING, lattice_for, least_between
from onnxadmm.quantize.ladders import Ladder
from onnxadmm.quantize.sweeps import Stretches, best_inverse

Array = np.ndarray[Any, Any]

PIECE = 1 << 18
"""Weights that are worked on at once: what a call of numpy costs by itself is small beside them."""
SWEPT = 1 << 17
"""Weights of stretches that are looked at together: a few arrays of them fit into a core's cache."""
AHEAD = 4
"""Pieces of each core that are bounded in a row."""
LARGEST = 32
"""Parts of a row, at least, whose largest weights tell what a scale clips."""
HALVINGS = 9
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
    levels, scales = np.zeros(rows.shape, np.float32), np.zeros(len(rows))
    undecided = [np.zeros(0, np.intp)]
    parts = _parts(np.flatnonzero(rows.any(axis=1)), rows.shape[1])
    workers = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:
        for i in range(0, len(parts), workers * AHEAD):
            some = parts[i : i + workers * AHEAD]
            pieces = list(pool.map(lambda part: _Piece(rows, part, ladder), some))
            # On all cores by itself, so never on several at once.
            lefts = [piece.shares @ piece.lattice.left for piece in pieces]
            undecided += pool.map(lambda p, left: p.settle(left, levels, scales), pieces, lefts)
    return levels, scales, np.concatenate(undecided)


def _parts(rows: Array, width: int) -> list[Array]:
    step = max(1, PIECE // max(1, width))
    return [rows[i : i + step] for i in range(0, len(rows), step)]


class _Piece:
    """Some rows, and what is known of each. Inverse scales and errors are in units of rough scales.

    Attributes:
        index: Which rows, ascending; none of them is zero.
        ladder: The levels.
        factors: Powers of two that bring the largest weight of each row to between 0.5 and 1.
        exact: The magnitudes times the factors, with nothing rounded, [R, C].
        x: The same in float32.
        rough: The rough scales of those, [R].
        counts: How many of them aren't zero, [R].
        energy: ||x||² in units, [R].
        lattice: Where the rows are bounded.
        shares: What the lattice holds of them, see `Lattice.shares`.
        outer: What it doesn't.
    """

    def __init__(self, rows: Array, index: Array, ladder: Ladder) -> None:
        """Take rows [R, C] of these indices, and share their weights out."""
        self.index, self.ladder = index, ladder
        self.rows = rows[_lean(index)]
        self.exact = np.abs(self.rows)
        # Squares of tiny weights would underflow.
        _, exponent = np.frexp(self.exact.max(axis=1))
        most = np.finfo(self.exact.dtype).maxexp - 1
        self.factors = np.ldexp(1.0, np.minimum(-exponent, most))
        self.exact *= self.factors.astype(self.exact.dtype)[:, None]
        self.x = self.exact.astype(np.float32, copy=False)
        self.counts = np.count_nonzero(self.x > 0, axis=1)
        energy = np.vecdot(self.x, self.x)
        self.rough, signal = _rough(self.x, self.counts, energy, ladder)
        self.energy = energy / np.square(self.rough)
        self.lattice = lattice_for(ladder, float(np.median(self.counts)), float(np.median(signal)))
        self.shares, self.outer = self.lattice.shares(self.x, self.rough)

    def settle(self, left: Array, levels: Array, scales: Array) -> Array:
        """Write levels and scales of the rows; return the indices of those that it can't decide.

        Args:
            left: At least what is left at each of the lattice's columns, but for weights beyond it.
            levels: Of all rows.
            scales: Of all rows.
        """
        columns = self.lattice.columns
        if self.outer.any():
            beyond = self.lattice.clipped(self.outer)
            left += beyond.astype(np.float32) * np.float32(1 - SUMMING)
        start = columns[(left[:, :-1] / np.square(columns).astype(np.float32)).argmin(1)]
        most = self._left(np.arange(len(self.x)), start) / np.square(start) * (1 + SUMMING)
        least = self.ladder.middles[self.ladder.least_rank - 1] * (1 - 1e-6) * self.rough
        least /= self.x.max(axis=1)
        undecided = left[:, -1] / columns[-1] ** 2 <= most
        undecided |= self._open_below(np.flatnonzero(least < columns[0]), columns[0], most)
        known = _surviving(columns, left[:, :-1], self.energy, most)
        known = known.only(~undecided[known.row] & (known.end >= least[known.row]))
        known = self._narrowed(known, most)
        known = known.only(known.end >= least[known.row])
        stretches = known.joined(1 / self.rough)
        inverse = best_inverse(self.x, self.exact, stretches, self.ladder, SWEPT)
        decided = np.flatnonzero(~undecided)
        self._write(decided, inverse, levels, scales)
        others: Array = self.index[undecided]
        return others

    def _narrowed(self, known: _Survivors, most: Array) -> _Survivors:
        """Halve stretches that hold many events until none is left of them, or few are; lowers `most`."""
        sums = self.x.sum(1) / self.rough
        while True:
            events = self.ladder.changes(
                known.start, known.end, self.counts[known.row], sums[known.row]
            )
            many = events > self.x.shape[1] * FEW_EVENTS
            if not many.any():
                return known
            wide, narrow = known.only(many), known.only(~many)
            middle = (wide.start + wide.end) / 2
            left = self._left(wide.row, middle)
            np.minimum.at(most, wide.row, left / np.square(middle) * (1 + SUMMING))
            left *= 1 - SUMMING
            left -= ROUNDING * self.ladder.gap * middle * sums[wide.row]
            known = wide.halved(middle, left).beside(narrow)
            known = known.only(known.least(self.energy) <= most[known.row])

    def _open_below(self, rows: Array, first: float, most: Array) -> Array:
        """Return which rows may have their best inverse scale below the first column."""
        found = np.zeros(len(self.x), np.bool_)
        if len(rows):
            # There these weights are on level 0.
            small = self.x[rows] <= (self.ladder.middles[0] / first * self.rough[rows])[:, None]
            part = np.where(small, self.x[rows], 0)
            lost = np.vecdot(part, part) / np.square(self.rough[rows]) * (1 - SUMMING)
            found[rows] = lost <= most[rows]
        return found

    def _left(self, row: Array, inverse: Array) -> Array:
        """Return what rows leave in units at inverse scales."""
        found = np.empty(len(row))
        step = max(1, SWEPT // self.x.shape[1])
        for i in range(0, len(row), step):
            part = slice(i, i + step)
            units = self.x[row[part]]
            units *= (inverse[part] / self.rough[row[part]]).astype(np.float32)[:, None]
            units -= self.ladder.nearest(units)
            found[part] = np.vecdot(units, units)
        return found

    def _write(self, decided: Array, inverse: Array, levels: Array, scales: Array) -> None:
        """Write the nearest levels at these inverse scales, and the scales that fit them best."""
        exact = self.exact.astype(np.float64, copy=False)
        units = exact * inverse[:, None]
        found = self.ladder.nearest(units)
        energy = np.vecdot(found, found)
        fitted = np.vecdot(exact, found) / np.where(energy > 0, energy, 1) / self.factors
        signed = np.copysign(found, self.rows, dtype=np.float32, casting="same_kind")
        signed += 0  # no minus zeros
        if len(decided) == len(signed):
            levels[_lean(self.index)], scales[self.index] = signed, fitted
        else:
            levels[self.index[decided]] = signed[decided]
            scales[self.index[decided]] = fitted[decided]


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
    whole = bool(len(piece)) and int(piece[-1]) - int(piece[0]) == len(piece) - 1
    return slice(int(piece[0]), int(piece[-1]) + 1) if whole else piece


def _alternate(a: Array, b: Array) -> Array:
    return np.stack([a, b], 1).ravel()


def _rough(x: Array, there: Array, energy: Array, ladder: Ladder) -> tuple[Array, Array]:
    """Return scales [R] near the best ones, and the rows' energy over what levels leave there."""
    largest = x.max(axis=1)
    if not ladder.uniform:
        return largest / ladder.top, np.full(len(x), 50.0)
    # No formula for evenly spread rests serves ternary levels; of normal weights this is nearly the best.
    ternary = ladder.top == 1
    rough = 1.2 * np.sqrt(energy / there) if ternary else _even(x, there, ladder.top)
    return rough.astype(np.float64), 12 * energy / (there * np.square(rough))


def _even(x: Array, there: Array, top: float) -> Array:
    """Return scales by a formula: weights lie evenly between levels, and the largest are clipped.

    What that leaves is convex in the scale: its slope is halved upon. Of the largest only the first of each part of a
    row counts.
    """
    parts = min(x.shape[1], max(LARGEST, int(x.shape[1] // (top + 1))))
    each = x.shape[1] // parts
    peaks = x[:, : parts * each].reshape(len(x), each, parts).max(1)
    if parts * each < x.shape[1]:
        peaks = np.concatenate([peaks, x[:, parts * each :].max(1, keepdims=True)], axis=1)
    end = np.float32(top + 0.25)
    high = peaks.max(axis=1) / end
    low = high / 16
    for _ in range(HALVINGS):
        scale = np.sqrt(low * high)
        beyond = np.maximum(peaks - end * scale[:, None], 0).sum(1)
        falls = 2 * end * beyond > there / 6 * scale
        low, high = np.where(falls, scale, low), np.where(falls, high, scale)
    found: Array = high
    return found
