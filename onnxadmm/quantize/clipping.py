"""How much of a tensor's range to keep: what is cut off is lost, what is kept is told apart less finely."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

STEPS = 255
"""Between the 256 values of 8 bits."""
TRIED = np.linspace(1.0, 0.05, 96)
"""Shares of the whole range that are tried, the whole first."""
SAMPLED = 1 << 14
"""Values that a squared error is taken over; more are thinned, but for as many at either end."""
TAIL = 1 << 11
BINS = 2048


def least_squared_error(values: Array, low: float, high: float) -> tuple[float, float]:
    """Return the part of a range that loses least squared error when its values become 8 bits.

    Both ends are tried in turn: activations are seldom even about zero.

    Args:
        values: What was observed, float.
        low: The least of them, at most 0.
        high: The largest, at least 0.
    """
    ordered = np.sort(values.astype(np.float64), axis=None)
    stride = max(1, -(-ordered.size // SAMPLED))
    tail = min(TAIL, ordered.size // 2)
    inner = ordered[tail : ordered.size - tail : stride]
    thinned = np.concatenate([ordered[:tail], inner, ordered[ordered.size - tail :]])
    weight = np.ones(len(thinned))
    weight[tail : tail + len(inner)] = stride

    def error(bottom: float, top: float) -> float:
        step = (top - bottom) / STEPS
        if step <= 0:
            return float(weight @ np.square(thinned))
        # Zero is a level, so that padding stays exact.
        zero = np.rint(-bottom / step)
        level = np.clip(np.rint(thinned / step), -zero, STEPS - zero)
        return float(weight @ np.square(thinned - level * step))

    bottom, top = low, high
    for _ in range(2):
        top = min((float(high * s) for s in TRIED), key=lambda t: error(bottom, t))
        bottom = min((float(low * s) for s in TRIED), key=lambda b: error(b, top)) if low else 0.0
    return bottom, top


def least_divergence(values: Array, low: float, high: float) -> tuple[float, float]:
    """Return the part of a range whose 8-bit histogram says most about the whole one.

    The Kullback-Leibler divergence from the clipped histogram to its form of 256 values, over clips of both ends
    by one share (Migacz, 8-bit inference with TensorRT, 2017).

    Args:
        values: What was observed, float.
        low: The least of them, at most 0.
        high: The largest, at least 0.
    """
    if high <= low:
        return low, high
    counts, _ = np.histogram(values, bins=BINS, range=(low, high))
    # Exact zeros (what a Relu cut off) are no part of the shape.
    zero = min(int(-low / (high - low) * BINS), BINS - 1)
    counts = counts.astype(np.float64)
    counts[zero] = counts[zero - 1] if zero else counts[1]
    before = round(-low / (high - low) * BINS)
    best, least = 1.0, np.inf
    for share in TRIED:
        first, last = round(before * (1 - share)), before + round((BINS - before) * share)
        kept = counts[first:last].copy()
        if len(kept) < STEPS + 1 or not kept.sum():
            continue
        inner = kept.copy()
        kept[0] += counts[:first].sum()
        kept[-1] += counts[last:].sum()
        loss = _divergence(kept, _coarse(inner))
        if loss < least:
            best, least = float(share), loss
    return low * best, high * best


def _coarse(counts: Array) -> Array:
    """Return a histogram as 256 values tell it: each spread evenly over its bins that hold anything."""
    group = np.arange(len(counts)) * (STEPS + 1) // len(counts)
    there = counts > 0
    mass = np.bincount(group, counts, STEPS + 1)
    bins = np.bincount(group, there, STEPS + 1)
    spread: Array = np.where(there, (mass / np.maximum(bins, 1))[group], 0.0)
    return spread


def _divergence(wanted: Array, got: Array) -> float:
    """Return the Kullback-Leibler divergence of two histograms; what `got` misses counts as next to nothing."""
    p, q = wanted / wanted.sum(), got / max(got.sum(), 1e-300)
    there = p > 0
    return float((p[there] * np.log(p[there] / np.maximum(q[there], 1e-10))).sum())
