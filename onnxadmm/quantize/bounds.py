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

REACH = 1.25
"""The lattice's end, in units of the last level. What lies beyond is counted apart: it takes the last level."""
ROUNDING = 2.0**-21
"""Of a weight in float32 in units of its scale, relatively."""
SUMMING = 1e-4
"""Of sums in float32, relatively."""
LEAST_APART, LEAST_NODE = 1e-3, 1 / 32
"""Columns and nodes aren't closer than this, relatively and in levels: the matrix stays below 20 MB."""
AT_ONCE = 1 << 16
"""Nodes that are filled together."""
COARSE_COLUMNS, COARSE_NODES = 1.5, 0.6
"""How coarse columns and nodes are: finer ones cost more here and leave less to do afterwards."""


@dataclass(frozen=True)
class Lattice:
    """Nodes of weights and columns of inverse scales, both in units of a rough scale of each row.

    Attributes:
        ladder: The levels.
        node: From one node to the next.
        nodes: Their number, less one.
        columns: The inverse scales, ascending, [J].
        left: What `shares` is multiplied with, [nodes + 3, J + 1] float32.
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
            Weight of each node, sum of the products of distances to two nodes, and sum of the weights,
            [R, nodes + 3] float32. And the number, sum and sum of squares of weights beyond the lattice, [R, 3].
        """
        at = rows * (1 / (rough * self.node)).astype(np.float32)[:, None]
        outer = np.zeros((len(rows), 3))
        if at.max() >= self.nodes:
            beyond = np.where(at >= self.nodes, at, 0).astype(np.float64)
            outer[:, 0] = np.count_nonzero(beyond, axis=1)
            outer[:, 1] = beyond.sum(1) * self.node
            outer[:, 2] = np.square(beyond).sum(1) * self.node**2
            at[at >= self.nodes] = 0
        total = at.sum(1)
        below = np.floor(at)
        at -= below
        width = self.nodes + 3
        # Few enough for a core's cache; and whole numbers up to 2^24 are exact in float32.
        step = max(1, AT_ONCE // width)
        shares = np.empty((len(rows), width), np.float32)
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            place = below[part]
            place += (np.arange(len(place), dtype=np.float32) * np.float32(width))[:, None]
            index = place.astype(np.intp).ravel()
            far = np.bincount(index, at[part].ravel(), len(place) * width)
            share = np.bincount(index, minlength=len(place) * width) - far
            # No weight is beyond the last node, so nothing of a row reaches the next one.
            share[1:] += far[:-1]
            shares[part] = share.reshape(-1, width)
        shares[:, -2] = (at.sum(1) - np.vecdot(at, at)) * self.node**2
        shares[:, -1] = total * self.node
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
    noise = min(0.9 / math.sqrt(max(weights, 1.0)), 0.2)
    apart = max(COARSE_COLUMNS * math.sqrt(noise / max(signal, 1.0)), LEAST_APART)
    node = max(COARSE_NODES * math.sqrt(noise), LEAST_NODE)
    # Rounded, so that few are made.
    return _lattice(ladder.levels, _rounded(min(apart, 0.2)), _rounded(min(node, 0.25)))


def _rounded(value: float) -> float:
    return float(2 ** (math.floor(2 * math.log2(value)) / 2))


@lru_cache(maxsize=8)
def _lattice(levels: Levels, apart: float, node: float) -> Lattice:
    ladder = ladder_of(levels)
    assert ladder is not None
    top = ladder.top
    if ladder.uniform:
        columns = _columns(0.2 if top > 15 else 0.1, 1.7 if top > 15 else 3.0, apart)  # noqa: PLR2004
    else:
        node *= top / 64
        columns = np.geomspace(0.74, 8, math.ceil(math.log(8 / 0.74) / apart) + 1)
    nodes = math.ceil(REACH * top / node)
    units = np.arange(nodes + 1)[:, None] * node * np.append(columns, columns[-1])
    left = np.empty((nodes + 3, len(columns) + 1), np.float32)
    left[:-2] = np.square(units - ladder.nearest(units)) * (1 - SUMMING)
    left[:-2, -1] = np.square(np.maximum(units[:, -1] - top, 0)) * (1 - SUMMING)
    left[-2] = -np.square(units[1] / node) * (1 + SUMMING)
    left[-1] = -ROUNDING * ladder.gap * units[1] / node
    return Lattice(ladder, node, nodes, columns, left)


def _columns(first: float, last: float, apart: float) -> Array:
    """Return inverse scales that are closer where the least error is to be expected, around 1."""
    found = [first]
    while found[-1] < last:
        b = found[-1]
        # Larger scales leave more, by their square.
        excess = max(b**-2 - 1.3, 0.0) if b < 1 else 4 * max(b - 1.3, 0.0)
        found.append(b * (1 + apart * math.sqrt(1 + 10 * excess)))
    return np.array(found)
