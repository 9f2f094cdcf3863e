"""Block-wise: tiles of the GEMM view."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from onnxadmm.admm.sets._base import Groups


@dataclass(frozen=True)
class Blocks(Groups):
    """At most `keep` tiles of a weight's GEMM view are nonzero; those at the edges may be smaller."""

    structure = "block"
    tile: tuple[int, int]
    """Rows and columns of a tile."""

    @property
    def size(self) -> int:
        """How many tiles there are."""
        rows, columns = self._tiles()
        return rows * columns

    def scores(self, view: Tensor) -> Tensor:
        """Sum over each tile, row by row of tiles."""
        matrix = view.flatten(1).double().square()
        rows, columns = self._tiles()
        high, wide = self.tile
        padded = F.pad(matrix, (0, columns * wide - matrix.shape[1], 0, rows * high - len(matrix)))
        return padded.view(rows, high, columns, wide).sum((1, 3)).flatten()

    def spread(self, kept: Tensor, view: Tensor) -> Tensor:
        """Repeat each tile's answer over its elements."""
        grid = kept.view(self._tiles())
        whole = grid.repeat_interleave(self.tile[0], 0).repeat_interleave(self.tile[1], 1)
        return whole[: view.shape[0], : view.shape[1] * view.shape[2]].reshape(view.shape)

    def _tiles(self) -> tuple[int, int]:
        outputs, inputs, positions = self.view_shape
        return -(-outputs // self.tile[0]), -(-inputs * positions // self.tile[1])
