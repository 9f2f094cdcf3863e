"""Lower bounds on what levels leave of many rows of weights, at all scales at once.

In units of the scale, u = x · b, a weight leaves d²(u) = min over levels q of (u - q)². Less u² that is a minimum of
straight lines, so concave: in the weight x as well as in the inverse scale b. Two bounds follow.

- A weight between two nodes of an even lattice leaves at least what the line between both leaves there, less
  b² · (its distances to both, multiplied). So a row counts by its nodes alone: each weight is shared out between two,
  and one matrix product bounds all rows at all inverse scales that were chosen, the columns.
- Between two columns G(b) = what is left in units, less b² · ||x||², is at least the line between both.

The error in units of the weights is ||x||² + G(b) / b²; on a line G its least is found in closed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from onnxadmm.quantize.ladders import Ladder, Levels, ladder_of

Array = np.ndarray[Any, Any]

REACH = 1.1
"""The lattice's end, in units of the last level. What lies beyond is counted apart: it takes the last level."""
ROUNDING = 2.0**-21
"""Of a weight in float32 in units of its scale, relatively."""
SUMMING = 1e-4
"""Of sums in float32, relatively."""
LEAST_APART, LEAST_NODE = 5e-4, 1 / 32
"""Columns and nodes aren't closer than this, relatively and in levels: the matrix stays below 20 MB."""
AT_ONCE = 1 << 16
"""Nodes that are filled together."""
COARSE_COLUMNS, COARSE_NODES = 0.8, 0.5
"""How coarse columns and nodes are: finer ones cost more here and leave less to do afterwards."""
NEAR, UNSURE = 3.0, 0.1
"""So far above the least error columns are closest, in units of what chance makes of it, and at least: where the least
is is known roughly."""


@dataclass(frozen=True)
class Lattice:
    """Nodes of weights and columns of inverse scales, both in units of a rough scale of each row.

    Attributes:
        ladder: The levels.
        node: From one node to the next.
        nodes: Their number, less one.
        columns: The inverse scales, ascending, [J].
        left: What `shares` is multiplied with, [nodes + 2, J + 1] float32.
    """

    ladder: Ladder
    node: float
    nodes: int
    columns: Array
    left: Array

    def shares(self, rows: Array, rough: Array) -> tuple[Array, Array]:
        """Share weights out between nodes.

        Args:
            rows: Magnitudes [R, C] float32.
            rough: The rows' scales [R].

        Returns:
            Weight of each node, and the sum of the products of distances to two nodes, [R, nodes + 2] float32. And the number, sum and sum of squares of weights beyond the lattice, [R, 3].
        """
        at = rows * (1 / (rough * self.node)).astype(np.float32)[:, None]
        outer = np.zeros((len(rows), 3))
        if at.max() >= self.nodes:
            beyond = np.where(at >= self.nodes, at, 0).astype(np.float64)
            outer[:, 0] = np.count_nonzero(beyond, axis=1)
            outer[:, 1] = beyond.sum(1) * self.node
            outer[:, 2] = np.square(beyond).sum(1) * self.node**2
            at[at >= self.nodes] = 0
        below = np.floor(at)
        at -= below
        width = self.nodes + 2
        # Few enough for a core's cache; and whole numbers up to 2^24 are exact in float32.
        step = max(1, AT_ONCE // width)
        shares = np.empty((len(rows), width), np.float32)
        for first in range(0, len(rows), step):
            place = below[first : first + step]
            place += (np.arange(len(place), dtype=np.float32) * np.float32(width))[:, None]
            index = place.astype(np.intp).ravel()
            far = np.bincount(index, at[first : first + step].ravel(), len(place) * width)
            share = np.bincount(index, minlength=len(place) * width) - far
            # No weight is beyond the last node, so nothing of a row reaches the next one.
            share[1:] += far[:-1]
            shares[first : first + step] = share.reshape(-1, width)
            shares[first : first + step, -1] = far.reshape(-1, width).sum(1)
        shares[:, -1] -= np.vecdot(at, at)
        return shares, outer

    def clipped(self, outer: Array) -> Array:
        """Return what the weights beyond the lattice leave at each column, in units, and at the last; [R, J + 1].

        Args:
            outer: From `shares`.
        """
        number, total, squares = outer[:, :1], outer[:, 1:2], outer[:, 2:]
        b, top = np.append(self.columns, self.columns[-1]), self.ladder.top
        # Smaller inverse scales might bring them below the last level.
        sure = b >= self.ladder.middles[-1] / (self.nodes * self.node)
        left: Array = np.where(sure, number * top**2 - 2 * top * b * total + b**2 * squares, 0)
        return left


def least_between(
    energy: Array, start: Array, end: Array, left_start: Array, left_end: Array
) -> Array:
    """Return the least error, in units of the weights, of inverse scales between two.

    Args:
        energy: ||x||².
        start: Inverse scales.
        end: Larger ones.
        left_start: At least what is left there, in units.
        left_end: The same.
    """
    low, high = left_start - start**2 * energy, left_end - end**2 * energy
    slope = (high - low) / (end - start)
    offset = low - slope * start
    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.clip(np.nan_to_num(-2 * offset / slope, nan=0.0), start, end)
    inside = energy + (offset + slope * best) / best**2
    ends = np.minimum(left_start / start**2, left_end / end**2)
    least: Array = np.minimum(inside, ends)
    return least


def lattice_for(ladder: Ladder, weights: float, signal: float) -> Lattice:
    """Return a lattice on which few scales of usual rows survive.

    Errors of neighbouring scales differ by a share of about 0.9 / sqrt(weights); finer bounds tell no more.

    Args:
        ladder: The levels.
        weights: Of a row that aren't zero.
        signal: The rows' energy over what their levels leave.
    """
    # Rounded, so that few are made.
    noise = _rounded(min(0.9 / math.sqrt(max(weights, 1.0)), 0.2))
    apart = COARSE_COLUMNS * math.sqrt(noise / _rounded(max(signal, 1.0)))
    node = max(COARSE_NODES * math.sqrt(noise), LEAST_NODE)
    return _lattice(ladder.levels, min(max(apart, LEAST_APART), 0.2), min(node, 0.25), noise)


def _rounded(value: float) -> float:
    return float(2.0 ** round(math.log2(value)))


@lru_cache(maxsize=8)
def _lattice(levels: Levels, apart: float, node: float, noise: float) -> Lattice:
    ladder = ladder_of(levels)
    assert ladder is not None
    top = ladder.top
    if ladder.uniform:
        columns = _columns(0.2 if top > 15 else 0.1, 1.35 if top > 15 else 3.0, apart, noise)  # noqa: PLR2004
    else:
        node *= top / 64
        columns = np.geomspace(0.74, 8, math.ceil(math.log(8 / 0.74) / apart) + 1)
    nodes = math.ceil(REACH * top / node)
    units = np.arange(nodes + 1)[:, None] * node * np.append(columns, columns[-1])
    left = np.empty((nodes + 2, len(columns) + 1), np.float32)
    left[:-1] = np.square(units - ladder.nearest(units)) * (1 - SUMMING)
    left[:-1, -1] = np.square(np.maximum(units[:, -1] - top, 0)) * (1 - SUMMING)
    left[:-1] -= ROUNDING * ladder.gap * units
    left[-1] = -np.square(node * np.append(columns, columns[-1])) * (1 + SUMMING)
    return Lattice(ladder, node, nodes, columns, left)


def _columns(first: float, last: float, apart: float, noise: float) -> Array:
    """Return inverse scales that are closer where the least error is to be expected, around 1."""
    found = [first]
    while found[-1] < last:
        b = found[-1]
        # Away from 1 more is left, by the square of either: what may lie lower is told apart less finely.
        excess = abs(b**-2 - 1 if b < 1 else b**2 - 1) - max(NEAR * noise, UNSURE)
        found.append(b * (1 + min(apart * math.sqrt(1 + max(excess / noise, 0.0)), 0.2)))
    return np.array(found)
