"""What weights keep to once a phase has fixed it: which are zero, and which levels there are.

Masks are re-applied after every optimizer step. Levels are kept straight through: the optimizer moves weights that
may lie between levels, every pass and every measurement sees the nearest level of each, and the gradient there
moves the weight (Bengio et al., arXiv 1308.3432). So a weight can still change its level while others learn
to live with theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from onnxadmm.admm import Constraint, Grid, joint_masks
from onnxadmm.training.checkpoints import Checkpoint


class Holding:
    """Masks and levels over the weights of one model; what earlier phases took away stays away."""

    def __init__(
        self, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], device: torch.device
    ) -> None:
        """Start with masks alone.

        Args:
            weights: The live parameters by name.
            masks: Weight name -> mask of what may be nonzero.
            device: Where the weights are.
        """
        self.masks = {n: m.to(device) for n, m in masks.items()}
        self.grids: dict[str, Grid] = {}
        self._weights, self._device = weights, device

    @torch.no_grad()
    def fix(self, constraints: Sequence[Constraint]) -> None:
        """Fix what the weights' own projections keep, zeros first and then levels, and apply the masks."""
        weights = {n: w.detach() for n, w in self._weights.items()}
        for name, mask in joint_masks(constraints, weights).items():
            self.masks[name] = mask & self.masks.get(name, mask)
        self.apply_masks()
        for c in constraints:
            self.grids.update(c.grids({n: weights[n] for n in c.tensors}))

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Zero what is masked. After every step: masking gradients alone lets momentum move zeros."""
        for name, mask in self.masks.items():
            self._weights[name].mul_(mask)

    @torch.no_grad()
    def refit(self) -> None:
        """Let the scales follow the weights."""
        for name, grid in self.grids.items():
            self.grids[name] = grid.refitted(self._weights[name])

    @contextlib.contextmanager
    def on_levels(self) -> Iterator[None]:
        """Put the weights on their levels for a while."""
        if not self.grids:
            yield
            return
        between = {n: self._weights[n].detach().clone() for n in self.grids}
        self.settle()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in between.items():
                    self._weights[name].copy_(weight)

    @torch.no_grad()
    def settle(self) -> None:
        """Put the weights on their levels for good."""
        for name, grid in self.grids.items():
            self._weights[name].copy_(grid.nearest(self._weights[name]))
        self.apply_masks()

    def tensors(self) -> dict[str, Tensor]:
        """Return masks and levels as a flat mapping, for a checkpoint."""
        flat = {f"mask.{n}": m for n, m in self.masks.items()}
        for name, grid in self.grids.items():
            flat[f"table.{name}"], flat[f"scales.{name}"] = grid.table, grid.scales
            if grid.support is not None:
                flat[f"support.{name}"] = grid.support
        return flat

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take masks and levels from a checkpoint."""
        self.masks = checkpoint.under("mask.", self._device)
        scales, support = (checkpoint.under(f"{k}.", self._device) for k in ("scales", "support"))
        self.grids = {
            name: Grid(table, scales[name], support.get(name))
            for name, table in checkpoint.under("table.", self._device).items()
        }
        for name, mask in self.masks.items():
            mask.expand(self._weights[name].shape)
        for name, grid in self.grids.items():
            grid.nearest(self._weights[name].detach()).reshape(self._weights[name].shape)
