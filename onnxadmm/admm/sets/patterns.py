"""Kernel patterns: every kernel keeps the positions of one pattern out of a small library.

The library is chosen once, from the weights that come in: the patterns that most kernels would choose by
themselves. For a fixed library the projection is exact: each kernel takes the pattern that holds most of
its energy. (Choosing the best library together with it is a covering problem, and isn't attempted.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from onnxadmm.admm.sets._base import LayerSet, Layout
from onnxadmm.admm.sets.n_of_m import NOfM

Pattern = tuple[bool, ...]


@dataclass(frozen=True)
class KernelPatterns(LayerSet):
    """The nonzero positions of each kernel lie in one pattern of a library."""

    structure = "pattern"
    library: tuple[Pattern, ...]
    """Patterns over the P positions of a kernel; of equally good ones the first is taken."""

    def mask(self, view: Tensor) -> Tensor:
        """Give each kernel the pattern that holds most of its energy; see `LayerSet.mask`."""
        library = torch.tensor(self.library, device=view.device)
        energy = view.double().square() @ library.double().T
        return library[energy.argmax(-1)]

    def tightened(self, share: float) -> Self:
        """Return the set itself: a pattern has no half; see `Constraint.tightened`."""
        del share
        return self


def pattern_library(
    weight: Tensor, layout: Layout, entries: int, count: int
) -> tuple[Pattern, ...]:
    """Return the patterns of `entries` positions that most kernels of a weight would choose.

    Args:
        weight: The weight.
        layout: Its axes.
        entries: Positions that a pattern keeps.
        count: Patterns at most.

    Returns:
        The most frequent first; of equally frequent ones the one that keeps earlier positions.
    """
    view = layout.view(weight)
    kernels = view.reshape(-1, view.shape[2])
    chosen = NOfM("", tuple(kernels.shape), Layout(), entries, kernels.shape[1]).mask(
        kernels.unsqueeze(2)
    )
    patterns, counts = torch.unique(chosen.flatten(1), dim=0, return_counts=True)
    # unique sorts with False before True: backwards, patterns that keep earlier positions lead.
    order = torch.sort(counts.flip(0), descending=True, stable=True).indices[:count]
    return tuple(tuple(p) for p in patterns.flip(0)[order].tolist())
