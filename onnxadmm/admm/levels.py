"""Quantization as a set: every weight is a scale times one of a few levels, and the scale is free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from onnxadmm.admm.constraints import Constraint, whole_rows
from onnxadmm.admm.grids import Grid
from onnxadmm.admm.projections import row_slices
from onnxadmm.quantize import Levels, project_levels


@dataclass(frozen=True)
class QuantizedWeight(Constraint):
    """A weight is on levels times a scale, one for the tensor or one for each index of an axis."""

    tensor: str
    levels: Levels
    axis: int | None = None
    """The axis with scales of its own; None: one scale."""
    linear: ClassVar[bool] = False
    support: Tensor | None = field(default=None, compare=False, repr=False)
    """Boolean mask of the weight's shape: what pruning left. Outside of it the weight stays 0."""

    @property
    def name(self) -> str:  # type: ignore[override]
        """What the set is, and the tensor: a weight can stand in several sets."""
        return f"levels of {self.tensor}"

    @property
    def tensors(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one tensor."""
        return (self.tensor,)

    def closest(self, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, slice, Tensor]]:
        """Yield the closest weight on levels; see `project_levels`."""
        weight = weights[self.tensor]
        quantized, scales = self._closest(weight)
        levels = whole_rows(quantized)
        spread = whole_rows(scales.float().expand_as(quantized))
        for rows in row_slices(levels):
            # Levels times scales, rounded once, as `Grid.nearest` has it.
            yield self.tensor, rows, (levels[rows].float() * spread[rows]).to(weight)

    def masks(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the support: levels zero no weight for good; see `Constraint.masks`."""
        del weights
        return {} if self.support is None else {self.tensor: self.support}

    def grids(self, weights: Mapping[str, Tensor]) -> dict[str, Grid]:
        """Return the levels at the best scales; see `Constraint.grids`."""
        weight = weights[self.tensor]
        _, scales = self._closest(weight)
        table = torch.tensor(self.levels, dtype=torch.float32)
        return {self.tensor: Grid(table, scales.float(), self.support).to(weight.device)}

    def tightened(self, share: float) -> QuantizedWeight:
        """Return the set itself: levels have no half; see `Constraint.tightened`."""
        del share
        return self

    def _closest(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return levels in the weight's shape and scales that broadcast to it, on the CPU."""
        moved = self._rows(weight.detach().cpu().numpy())
        support = None if self.support is None else self._rows(self.support.cpu().numpy())
        quantized, scales = project_levels(
            moved.reshape(len(moved), -1),
            self.levels,
            None if support is None else support.reshape(len(moved), -1),
        )
        levels = quantized.reshape(moved.shape)
        shape = [1] * weight.dim()
        if self.axis is not None:
            levels = np.moveaxis(levels, 0, self.axis)
            shape[self.axis] = -1
        whole = torch.from_numpy(np.ascontiguousarray(levels).reshape(tuple(weight.shape)))
        return whole, torch.from_numpy(scales).view(shape)

    def _rows(self, content: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return what shares a scale along the first axis."""
        return content[None] if self.axis is None else np.moveaxis(content, self.axis, 0)
