"""Channel-wise within one weight: whole inputs of it (arXiv 1807.11091, section 3).

The papers call this "channel"; in a spec `channel` is the coupled set, whose channels really go.
"""

from __future__ import annotations

from torch import Tensor

from onnxadmm.admm.sets._base import Groups


class InputChannels(Groups):
    """At most `keep` inputs of a weight are nonzero. What is coupled to them isn't looked at."""

    structure = "input_channel"

    @property
    def size(self) -> int:
        """How many inputs there are."""
        return self.view_shape[1]

    def scores(self, view: Tensor) -> Tensor:
        """Sum over outputs and positions."""
        return view.double().square().sum((0, 2))

    def spread(self, kept: Tensor, view: Tensor) -> Tensor:
        """One input is one slab."""
        del view
        return kept.view(1, -1, 1)
