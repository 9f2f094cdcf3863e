"""Level sets for weights: a scale times small integers, with the scale that loses least.

The scale of max|W|/127 is not the closest grid. Alternating "nearest level" with the least-squares scale
α = <W, Q> / <Q, Q> is coordinate descent on ||W - α·Q||², here from several starts (after arXiv 1903.09769,
section 3.3, which scans ±10 % around max|W|/N).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

STARTS = (1.0, 0.9, 0.8, 0.65, 0.5)
"""Starting scales, as shares of max|W| / largest level."""
ROUNDS = 20


def symmetric_levels(bits: int) -> int:
    """Return the largest level of a symmetric grid: 127 for 8 bits."""
    return int(2 ** (bits - 1) - 1)


def project_grid(rows: Array, bits: int = 8) -> tuple[Array, Array]:
    """Find, for each row, the closest member of {α · q: |q| <= 2^(bits-1) - 1}.

    Args:
        rows: Weights [R, C], float.
        bits: 2 to 8.

    Returns:
        Levels [R, C] int8 and scales [R] float32, positive. A zero stays zero.
    """
    top = symmetric_levels(bits)
    x = rows.astype(np.float64)
    peak = np.abs(x).max(axis=1, initial=0.0)
    full = np.where(peak > 0, peak, 1.0) / top
    best_scale, best_error = full.copy(), np.full(len(x), np.inf)
    for start in STARTS:
        scale = full * start
        for _ in range(ROUNDS):
            levels = _nearest(x, scale, top)
            energy = (levels * levels).sum(axis=1)
            product = (x * levels).sum(axis=1)
            fitted = np.where(
                (energy > 0) & (product > 0), product / np.maximum(energy, 1.0), scale
            )
            if np.allclose(fitted, scale, rtol=1e-9, atol=0):
                break
            scale = fitted
        # ONNX stores the scale as float32: judge what will be stored.
        stored = np.maximum(scale.astype(np.float32), np.finfo(np.float32).tiny).astype(np.float64)
        residual = x - stored[:, None] * _nearest(x, stored, top)
        error = (residual * residual).sum(axis=1)
        better = error < best_error
        best_scale = np.where(better, stored, best_scale)
        best_error = np.where(better, error, best_error)
    return _nearest(x, best_scale, top).astype(np.int8), best_scale.astype(np.float32)


def grid_levels(rows: Array, scales: Array, bits: int = 8) -> Array:
    """Return the nearest levels [R, C] int8 of rows [R, C] on grids of these scales [R]."""
    return _nearest(rows.astype(np.float64), scales, symmetric_levels(bits)).astype(np.int8)


def _nearest(x: Array, scale: Array, top: int) -> Array:
    return np.clip(np.rint(x / scale[:, None]), -top, top)
