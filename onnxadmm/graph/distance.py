"""How far two runs of a model are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

IMPORT_TOLERANCE = 1e-4
"""Largest error of an imported module against ONNX Runtime, relative to the output's largest value."""


def compare_outputs(
    expected: Mapping[str, Array] | Sequence[Array],
    got: Mapping[str, Array] | Sequence[Array],
    units: Sequence[float] = (),
) -> float:
    """Return the largest difference of any output, relative to the output's own scale.

    Values that aren't finite must be the same in both. Anything else that differs, a shape or a
    not-a-number on one side, is infinitely far away.

    Args:
        expected: Outputs, by name or in order.
        got: Those to compare.
        units: Least scale of each output, in order: a probability is no smaller than 1 by being near 0.
    """
    pairs = (
        [(expected[n], got[n]) for n in expected]
        if isinstance(expected, Mapping) and isinstance(got, Mapping)
        else list(zip(expected, got, strict=True))
    )
    least = [*units, *[0.0] * len(pairs)]
    return max(
        (
            distance(np.asarray(a), np.asarray(b), u)
            for (a, b), u in zip(pairs, least, strict=False)
        ),
        default=0.0,
    )


def distance(x: Array, y: Array, unit: float = 0.0) -> float:
    """Return the largest difference of two arrays over the largest value of the first, or `unit` if that is more."""
    if x.shape != y.shape:
        return math.inf
    if x.dtype.kind not in "fiu" or not x.size:
        return 0.0 if np.array_equal(x, y) else math.inf
    wide, other = x.astype(np.float64), y.astype(np.float64)
    finite = np.isfinite(wide)
    if not np.array_equal(wide[~finite], other[~finite], equal_nan=True):
        return math.inf
    if not finite.any():
        return 0.0
    difference = float(np.abs(wide[finite] - other[finite]).max())
    scale = max(float(np.abs(wide[finite]).max()), unit) or 1.0
    return difference / scale if math.isfinite(difference) else math.inf
