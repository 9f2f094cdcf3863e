"""N:M: of every M consecutive weights of a row of the GEMM view at most N are nonzero."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from onnxadmm.admm.constraints import between
from onnxadmm.admm.sets._base import LayerSet


@dataclass(frozen=True)
class NOfM(LayerSet):
    """At most `keep` of every `of` consecutive weights are nonzero; a shorter rest keeps as many."""

    structure = "n_of_m"
    keep: int
    of: int

    def mask(self, view: Tensor) -> Tensor:
        """Keep the largest of each run, of equal ones the first; see `LayerSet.mask`."""
        matrix = view.flatten(1).abs()
        columns = matrix.shape[1]
        # A place that doesn't exist loses against every weight.
        runs = F.pad(matrix, (0, -columns % self.of), value=-1.0).view(len(matrix), -1, self.of)
        # Counting who is ahead costs of² comparisons, and on short runs far less than sorting them.
        ahead = torch.zeros_like(runs, dtype=torch.int16)
        for i in range(self.of):
            rival = runs[..., i : i + 1]
            ahead[..., :i] += rival > runs[..., :i]
            ahead[..., i + 1 :] += rival >= runs[..., i + 1 :]
        return (ahead < self.keep).view(len(matrix), -1)[:, :columns].reshape(view.shape)

    def tightened(self, share: float) -> Self:
        """Keep a number between all of a run and `keep`; see `Constraint.tightened`."""
        return replace(self, keep=between(self.of, self.keep, share))
