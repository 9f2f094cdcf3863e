"""Exact Euclidean projections onto sparse sets, as pure functions on tensors.

The closest member of "at most k groups are nonzero" keeps the k groups of largest norm and zeroes the
others (arXiv 1804.03294, section 3.3; arXiv 1807.11091, section 3). Ties go to the lower index, so that
the same input gives the same mask anywhere; a percentile threshold would miss k.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

PIECE = 1 << 18
"""Elements of a weight that are worked on at once."""
LARGE = 1 << 20
"""Elements of a weight of which a copy is one too many."""


def top_k_mask(scores: Tensor, k: int) -> Tensor:
    """Return the boolean mask [n] of the k largest of `scores` [n]; ties go to the lower index.

    Raises:
        ValueError: k outside 0..n, or a score that isn't finite.
    """
    if not 0 <= k <= scores.numel():
        raise ValueError(f"k = {k} of {scores.numel()} scores")
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("a score is not finite")
    if k == 0:
        return torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    # Selection is linear where sorting isn't. What equals the border stays from the lowest index on.
    border = _kth_largest(scores, k)
    mask = scores > border
    tied = (scores == border).nonzero().flatten()
    mask[tied[: k - int(mask.sum())]] = True
    return mask


def top_k_magnitudes(weight: Tensor, k: int) -> Tensor:
    """Return the boolean mask of the k elements of a weight that are largest in magnitude; ties go to the lower index.

    Of more than `LARGE` float32 on the CPU the border is found by counting the bits of magnitudes: slower than selecting,
    but it takes no copy of the weight.

    Raises:
        ValueError: k outside 0..n, or an element that isn't finite.
    """
    counted = weight.dtype == torch.float32 and not weight.is_cuda and weight.is_contiguous()
    if not counted or weight.numel() <= LARGE:
        return top_k_mask(weight.abs().flatten(), k).view_as(weight)
    flat = weight.detach().view(-1)
    if not 0 <= k <= flat.numel():
        raise ValueError(f"k = {k} of {flat.numel()} elements")
    parts = torch.split(flat, PIECE)
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise ValueError("a weight is not finite")
    mask = torch.zeros(flat.shape, dtype=torch.bool)
    if k:
        border = _kth_magnitude(flat.numpy(), k)
        kept = torch.split(mask, PIECE)
        left = k
        for part, out in zip(parts, kept, strict=True):
            torch.gt(part.abs(), border, out=out)
            left -= int(out.sum())
        for part, out in zip(parts, kept, strict=True):
            tied = (part.abs() == border).nonzero().flatten()[:left]
            out[tied] = True
            left -= len(tied)
    return mask.view_as(weight)


def _kth_magnitude(flat: np.ndarray[Any, Any], k: int) -> float:
    """Return the k-th largest magnitude of float32 elements: first its upper 16 bits are counted, then the lower."""
    upper = np.zeros(1 << 16, np.int64)
    pieces = [flat[i : i + PIECE].view(np.uint32) for i in range(0, len(flat), PIECE)]
    for bits in pieces:
        upper += np.bincount(bits << 1 >> 17, minlength=len(upper))
    head, above = _counted_down(upper, k)
    lower = np.zeros(1 << 16, np.int64)
    for bits in pieces:
        lower += np.bincount(bits[bits << 1 >> 17 == head] & 0xFFFF, minlength=len(lower))
    tail, _ = _counted_down(lower, k - above)
    return float(np.array(head << 16 | tail, np.uint32).view(np.float32))


def _counted_down(counts: np.ndarray[Any, Any], k: int) -> tuple[int, int]:
    """Return the bin that holds the k-th from the top, and how many lie in higher ones."""
    reached = np.cumsum(counts[::-1])
    place = int(np.searchsorted(reached, k))
    return len(counts) - 1 - place, int(reached[place] - counts[::-1][place])


def row_slices(weight: Tensor) -> Iterator[slice]:
    """Yield slices of a weight's first axis that hold about `PIECE` elements each."""
    count = len(weight) if weight.dim() else 1
    rows = max(1, count * PIECE // max(1, weight.numel()))
    return (slice(i, i + rows) for i in range(0, count, rows))


def _kth_largest(scores: Tensor, k: int) -> Tensor:
    place = scores.numel() - k
    if scores.is_cuda:
        return torch.kthvalue(scores, place + 1).values
    return torch.from_numpy(np.partition(scores.detach().numpy(), place)[place : place + 1])


def project_unstructured(weight: Tensor, k: int) -> Tensor:
    """Return the closest tensor with at most k nonzero elements."""
    mask = top_k_mask(weight.abs().flatten(), k).view_as(weight)
    return torch.where(mask, weight, torch.zeros_like(weight))


def slice_energy(weight: Tensor, axis: int) -> Tensor:
    """Return the sum of squares of every slice along `axis`, [n] in float64.

    float64: with float32 sums the order of summation could decide between near-equal channels.
    """
    moved = weight.movedim(axis, 0) if weight.dim() > 1 else weight.unsqueeze(1)
    # A few slices at a time: in float64, and squared, a weight takes four times its memory.
    slices = max(1, len(moved) * PIECE // max(1, moved.numel()))
    parts = [part.flatten(1).double().square().sum(1) for part in torch.split(moved, slices)]
    return torch.cat(parts)
