"""Quantization as a set: every weight is a scale times one of a few levels, and the scale is free.

The projection is exact for any list of levels that is symmetric about zero. For a scale α each weight takes its
nearest level; as α falls, weights rise from one level to the next, each at |w| / α = the middle of the two.
Between two such events the levels q are fixed, the best scale is <|w|, q> / <q, q>, and the error ||w||² -
<|w|, q>² / <q, q>. So one pass over all events in order, with both sums carried along, meets the levels of the best
scale and finds it. (arXiv 1903.09769, section 3.3, scans a range of scales; alternating levels and scale stops at
local optima.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from onnxadmm.admm.constraints import Constraint

Levels = tuple[float, ...]
"""The magnitudes of a set, ascending; 0 among them where zero is a level."""

BINARY: Levels = (1.0,)
TERNARY: Levels = (0.0, 1.0)


def uniform_levels(bits: int) -> Levels:
    """Return the magnitudes of a symmetric grid: 0 to 2^(bits - 1) - 1.

    Raises:
        ValueError: bits outside 2 to 8.
    """
    if not 2 <= bits <= 8:  # noqa: PLR2004  (the formats that ONNX stores weights in)
        raise ValueError(f"{bits} bits; 2 to 8 are possible")
    return tuple(float(i) for i in range(2 ** (bits - 1)))


def power_levels(bits: int) -> Levels:
    """Return the magnitudes 0, 1, 2, 4, … that fit into so many bits with a sign: 2^(bits - 1) - 1 powers.

    Raises:
        ValueError: bits outside 2 to 6: more powers than a float32 weight can use.
    """
    if not 2 <= bits <= 6:  # noqa: PLR2004
        raise ValueError(f"{bits} bits; 2 to 6 are possible")
    return (0.0, *(float(2**i) for i in range(2 ** (bits - 1) - 1)))


def project_levels(rows: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    """Return the closest α · q of each row, q from ±levels, α >= 0.

    Of scales that are equally close the largest is taken. Where no level is 0, a zero counts as positive; a row
    of zeros gets scale 0.

    Args:
        rows: Weights [R, C].
        levels: See `Levels`.

    Returns:
        q [R, C] and α [R], in float64. Memory: 40 bytes a weight and level of one row.

    Raises:
        ValueError: A weight isn't finite, or levels that aren't ascending from 0 or above.
    """
    table = torch.tensor(levels, dtype=torch.float64, device=rows.device)
    if not levels or levels[0] < 0 or levels[-1] == 0 or bool((table.diff() <= 0).any()):
        raise ValueError(f"levels {levels} are not ascending from 0 or above")
    if not bool(torch.isfinite(rows).all()):
        raise ValueError("a weight is not finite")
    x = rows.double()
    quantized = torch.zeros_like(x)
    scales = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for i, row in enumerate(x):
        peak = row.abs().max() if row.numel() else torch.zeros(())
        if peak > 0:
            # Scaled to 1: squares of tiny weights would underflow.
            magnitudes, scale = _project_row(row.abs() / peak, table)
            scales[i] = scale * peak
        else:
            magnitudes = table[0].expand_as(row)
        quantized[i] = torch.where(row < 0, -magnitudes, magnitudes)
    return quantized, scales


def _project_row(magnitudes: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Return the levels of non-negative weights [C], not all of them 0, and their scale."""
    positive = magnitudes[magnitudes > 0]
    middles = (table[1:] + table[:-1]) / 2
    # The scale at which each weight rises to each level: from the largest scale down.
    at = (positive.unsqueeze(1) / middles).flatten()
    order = at.argsort(descending=True, stable=True)
    product = (positive.unsqueeze(1) * table.diff()).flatten()[order].cumsum(0)
    energy = table.square().diff().expand(len(positive), -1).flatten()[order].cumsum(0)
    first = table[0]
    start = torch.stack([first * positive.sum(), first * first * len(magnitudes)])
    product = torch.cat([start[:1], start[0] + product])
    energy = torch.cat([start[1:], start[1] + energy])
    gain = torch.where(energy > 0, product.square() / energy.clamp(min=1e-300), -1.0)
    best = int(gain.argmax())
    risen = torch.zeros(len(at), dtype=torch.long, device=at.device)
    risen[order[:best]] = 1
    index = torch.zeros(len(magnitudes), dtype=torch.long, device=at.device)
    index[magnitudes > 0] = risen.view(len(positive), -1).sum(1)
    return table[index], product[best] / energy[best]


@dataclass(frozen=True)
class QuantizedWeight(Constraint):
    """A weight is on levels times a scale, one for the tensor or one for each index of an axis."""

    tensor: str
    levels: Levels
    axis: int | None = None
    """The axis with scales of its own; None: one scale."""

    @property
    def name(self) -> str:  # type: ignore[override]
        """What the set is, and the tensor: a weight can stand in several sets."""
        return f"levels of {self.tensor}"

    @property
    def tensors(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one tensor."""
        return (self.tensor,)

    def project(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the closest weight on levels; see `project_levels`."""
        weight = weights[self.tensor]
        moved = weight.unsqueeze(0) if self.axis is None else weight.movedim(self.axis, 0)
        quantized, scales = project_levels(moved.flatten(1), self.levels)
        on = (quantized * scales.unsqueeze(1)).to(weight.dtype).view(moved.shape)
        return {self.tensor: on[0] if self.axis is None else on.movedim(0, self.axis)}

    def masks(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep everything: levels zero no weight for good; see `Constraint.masks`."""
        return {self.tensor: torch.ones_like(weights[self.tensor], dtype=torch.bool)}

    def tightened(self, share: float) -> QuantizedWeight:
        """Return the set itself: levels have no half; see `Constraint.tightened`."""
        del share
        return self
