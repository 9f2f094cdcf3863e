"""Exact Euclidean projections onto sparse sets, as pure functions on tensors.

The closest member of "at most k groups are nonzero" keeps the k groups of largest norm and zeroes the
others (arXiv 1804.03294, section 3.3; arXiv 1807.11091, section 3). Ties go to the lower index, so that
the same input gives the same mask anywhere; a percentile threshold would miss k.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_ENERGY_ELEMENTS = 1 << 22


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
    slices = max(1, len(moved) * _ENERGY_ELEMENTS // max(1, moved.numel()))
    parts = [part.flatten(1).double().square().sum(1) for part in torch.split(moved, slices)]
    return torch.cat(parts)
