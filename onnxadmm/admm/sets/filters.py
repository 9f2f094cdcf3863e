"""Filter-wise: whole outputs of one weight (arXiv 1807.11091, section 3)."""

from __future__ import annotations

from torch import Tensor

from onnxadmm.admm.sets._base import Groups


class Filters(Groups):
    """At most `keep` outputs of a weight are nonzero. What is coupled to them isn't looked at."""

    structure = "filter"

    @property
    def size(self) -> int:
        """How many outputs there are."""
        return self.view_shape[0]

    def scores(self, view: Tensor) -> Tensor:
        """Sum over inputs and positions."""
        return view.double().square().sum((1, 2))

    def spread(self, kept: Tensor, view: Tensor) -> Tensor:
        """One output is one row."""
        del view
        return kept.view(-1, 1, 1)
