"""Levels with their scales: where a weight may lie."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The points that a weight may take once its scales are known.

    Attributes:
        table: The magnitudes of the levels, ascending, [L] float32.
        scales: One a row, float32, not negative; they broadcast to the weight.
        support: Boolean mask of the weight's shape; outside of it the weight is 0. None: everywhere.
    """

    table: Tensor
    scales: Tensor
    support: Tensor | None = None

    def codes(self, weight: Tensor) -> Tensor:
        """Return the nearest level of each weight, as float32 with its sign; half way the smaller one."""
        # A row of zeros has no scale.
        steps = (weight / torch.where(self.scales > 0, self.scales, 1.0)).abs()
        # Weights of convolutions are stored with channels innermost.
        index = torch.bucketize(steps.contiguous(), (self.table[1:] + self.table[:-1]) / 2)
        nearest = self.table[index]
        signed = torch.where(weight < 0, -nearest, nearest)
        return signed if self.support is None else torch.where(self.support, signed, 0.0)

    def nearest(self, weight: Tensor) -> Tensor:
        """Return the closest weight on the grid: level times scale, rounded once."""
        return self.codes(weight) * self.scales

    def refitted(self, weight: Tensor) -> Grid:
        """Return the grid with the scales that fit the weight's nearest levels best (least squares)."""
        codes = self.codes(weight)
        others = [d for d, n in enumerate(self.scales.shape) if n == 1]
        product = (weight * codes).double().sum(others, keepdim=True)
        energy = codes.double().square().sum(others, keepdim=True)
        fits = (product > 0) & (energy > 0)
        fitted = product / torch.where(fits, energy, 1.0)
        return replace(self, scales=torch.where(fits, fitted.to(self.scales.dtype), self.scales))

    def to(self, device: torch.device) -> Grid:
        """Return the grid on a device."""
        support = None if self.support is None else self.support.to(device)
        return Grid(self.table.to(device), self.scales.to(device), support)
