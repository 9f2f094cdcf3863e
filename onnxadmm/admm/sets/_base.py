"""What every set of one weight shares: how the weight is looked at, and groups that stay or go whole.

Whatever the operator stores, a set looks at its weight as [O, I, P]: outputs, inputs, kernel positions. The
GEMM view of a convolution is that with the last two axes merged: O rows by I·P columns.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from onnxadmm.admm.constraints import Constraint, between
from onnxadmm.admm.projections import top_k_mask


@dataclass(frozen=True, slots=True)
class Layout:
    """Which axes of a weight are its outputs and inputs; the others are kernel positions."""

    outputs: int = 0
    inputs: int = 1

    def view(self, weight: Tensor) -> Tensor:
        """Return the weight as [O, I, P]; P is 1 where there is no kernel."""
        moved = weight.movedim((self.outputs, self.inputs), (0, 1))
        return moved.reshape(moved.shape[0], moved.shape[1], -1)

    def back(self, mask: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return a mask that broadcasts to [O, I, P] in the weight's own shape."""
        moved = torch.empty(shape, device="meta").movedim((self.outputs, self.inputs), (0, 1)).shape
        whole = mask.expand(moved[0], moved[1], math.prod(moved[2:])).reshape(moved)
        return whole.movedim((0, 1), (self.outputs, self.inputs))


@dataclass(frozen=True)
class LayerSet(Constraint):
    """A set of one weight of two or more axes."""

    tensor: str
    shape: tuple[int, ...]
    layout: Layout
    structure: ClassVar[str]
    """The spec's name of the set."""

    @property
    def name(self) -> str:  # type: ignore[override]
        """The structure and the tensor: a weight can stand in several sets."""
        return f"{self.structure} of {self.tensor}"

    @property
    def tensors(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one tensor."""
        return (self.tensor,)

    def masks(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the closest member keeps; see `Constraint.masks`.

        Raises:
            ValueError: A weight isn't finite.
        """
        weight = weights[self.tensor]
        if not bool(torch.isfinite(weight).all()):
            raise ValueError("a weight is not finite")
        mask = self.mask(self.layout.view(weight))
        return {self.tensor: self.layout.back(mask, tuple(weight.shape))}

    @abstractmethod
    def mask(self, view: Tensor) -> Tensor:
        """Return the mask of what stays of a view [O, I, P]; it broadcasts to the view."""

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """O, I and P."""
        outputs, inputs = self.shape[self.layout.outputs], self.shape[self.layout.inputs]
        return outputs, inputs, math.prod(self.shape) // (outputs * inputs)


@dataclass(frozen=True)
class Groups(LayerSet):
    """At most `keep` of the groups that a weight falls into are nonzero.

    The score of a group is its sum of squares, in float64; the largest stay, of equal ones the first.
    """

    keep: int

    @property
    @abstractmethod
    def size(self) -> int:
        """How many groups there are."""

    @abstractmethod
    def scores(self, view: Tensor) -> Tensor:
        """Return the sum of squares of each group, [size] in float64."""

    @abstractmethod
    def spread(self, kept: Tensor, view: Tensor) -> Tensor:
        """Return the mask of a view [O, I, P] that belongs to a mask [size] of its groups."""

    def mask(self, view: Tensor) -> Tensor:
        """Keep the groups of largest score; see `LayerSet.mask`."""
        return self.spread(top_k_mask(self.scores(view), self.keep), view)

    def tightened(self, share: float) -> Self:
        """Keep a number of groups between all and `keep`; see `Constraint.tightened`."""
        return replace(self, keep=between(self.size, self.keep, share))
