"""Shape-wise: columns of the GEMM view, (input, position) over all outputs (arXiv 1807.11091, section 3)."""

from __future__ import annotations

from torch import Tensor

from onnxadmm.admm.sets._base import Groups


class Columns(Groups):
    """At most `keep` columns of a weight's GEMM view are nonzero."""

    structure = "shape"

    @property
    def size(self) -> int:
        """How many columns there are: inputs times positions."""
        return self.view_shape[1] * self.view_shape[2]

    def scores(self, view: Tensor) -> Tensor:
        """Sum over outputs."""
        return view.double().square().sum(0).flatten()

    def spread(self, kept: Tensor, view: Tensor) -> Tensor:
        """One column is one place in every filter."""
        return kept.view(1, *view.shape[1:])
