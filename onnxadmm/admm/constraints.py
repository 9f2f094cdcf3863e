"""Constraint sets. Each says which tensors it binds and how they are projected; the solver knows no more.

The coupled channel set is this project's: one channel with every slice that must go with it (its
producers' rows, biases, consumers' columns). Its score is the sum of squares over all those slices, one mask
serves them all, and so the projection stays exact for the whole of it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from onnxadmm.admm.grids import Grid
from onnxadmm.admm.projections import row_slices, slice_energy, top_k_magnitudes, top_k_mask
from onnxadmm.channels import ChannelClass, Slice


class Constraint(ABC):
    """A set of allowed weights, with its exact projection."""

    name: str
    tensors: tuple[str, ...]
    """Names of the weights that the set binds."""
    linear: ClassVar[bool] = True
    """Whether the set is a union of subspaces, each with zeros of its own, as all sparse ones are."""

    @abstractmethod
    def masks(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return, for each tensor, the boolean mask of what the closest member keeps.

        Masks broadcast to the tensor's shape. A tensor of which everything stays may be left out.
        """

    def grids(self, weights: Mapping[str, Tensor]) -> dict[str, Grid]:
        """Return the levels that the closest member lies on, for tensors that shall lie on levels."""
        del weights
        return {}

    def project(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the closest member of the set (Euclidean, over all its tensors together)."""
        found = {n: torch.empty_like(weights[n]) for n in self.tensors}
        for n, rows, part in self.closest(weights):
            whole_rows(found[n])[rows] = part
        return found

    def closest(self, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, slice, Tensor]]:
        """Yield the closest member, of each tensor some rows after the other: no more need be in memory.

        By default the weight where its mask holds, else 0. Those rows of the weight, and what was yielded, may be
        changed before the next ones come.

        Yields:
            The tensor's name, which of its rows, and the member's elements there; of a number without axes one row.
        """
        masks = self.masks(weights)
        for n in self.tensors:
            weight = whole_rows(weights[n])
            mask = masks[n].expand_as(weights[n]).view_as(weight) if n in masks else None
            for rows in row_slices(weight):
                part = weight[rows]
                yield n, rows, part.clone() if mask is None else torch.where(mask[rows], part, 0.0)

    @abstractmethod
    def tightened(self, share: float) -> Constraint:
        """Return the set on the way to this one: share 0 allows everything, share 1 is the set itself.

        What is kept shrinks geometrically, as the progressive method's steps do (arXiv 1903.09769,
        section 4).
        """


def whole_rows(weight: Tensor) -> Tensor:
    """Return a view with at least one axis."""
    return weight if weight.dim() else weight[None]


@dataclass(frozen=True)
class CoupledChannels(Constraint):
    """At most `keep` channels of a class are nonzero, over all the slices that carry them."""

    name: str
    size: int
    keep: int
    slices: tuple[Slice, ...]
    floor: int = 1

    @property
    def tensors(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the weights that carry the channels."""
        return tuple(dict.fromkeys(s.tensor for s in self.slices))

    def scores(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return each channel's sum of squares over all coupled slices, [size] in float64.

        Where two axes of one tensor belong to the class (a layer that feeds itself), the crossing
        counts twice: a fixed, small bias that keeps the score a sum over slices.
        """
        total = torch.zeros(self.size, dtype=torch.float64)
        for s in self.slices:
            energy = slice_energy(weights[s.tensor], s.axis).cpu()
            positions = torch.from_numpy(s.positions)
            there = positions >= 0
            total.index_add_(0, positions[there], energy[there])
        return total

    def kept(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the boolean mask [size] of the channels that the projection keeps."""
        return top_k_mask(self.scores(weights), self.keep)

    def masks(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Spread the channels' mask over the slices; see `Constraint.masks`."""
        return channel_masks(self.slices, self.kept(weights), weights)

    def tightened(self, share: float) -> CoupledChannels:
        """Keep a number of channels between all and `keep`; see `Constraint.tightened`."""
        keep = between(self.size, self.keep, share)
        return CoupledChannels(self.name, self.size, keep, self.slices, self.floor)


@dataclass(frozen=True)
class Unstructured(Constraint):
    """At most `keep` elements of one tensor are nonzero."""

    tensor: str
    size: int
    keep: int

    @property
    def name(self) -> str:  # type: ignore[override]
        """The tensor's name."""
        return self.tensor

    @property
    def tensors(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one tensor."""
        return (self.tensor,)

    def masks(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep the largest elements; see `Constraint.masks`."""
        weight = weights[self.tensor]
        return {self.tensor: top_k_magnitudes(weight, self.keep)}

    def tightened(self, share: float) -> Unstructured:
        """Keep a number of elements between all and `keep`; see `Constraint.tightened`."""
        return Unstructured(self.tensor, self.size, between(self.size, self.keep, share))


def between(size: int, keep: int, share: float) -> int:
    """Return a count on the way from `size` to `keep`: size · (keep / size)^share, rounded up; `size` at share 0, exactly `keep` at share 1."""
    if share >= 1:
        return keep
    # Nothing kept is no end of a geometric way: it leads to one, and the last step does the rest.
    return max(keep, math.ceil(size * math.pow(max(keep, 1) / size, share)))


def channel_masks(
    slices: Sequence[Slice], kept: Tensor, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return boolean masks, one a tensor, that are false on every slice of a channel that goes.

    Args:
        slices: Where the channels live.
        kept: Mask [size] of the channels that stay.
        weights: The tensors, for their shapes.
    """
    masks: dict[str, Tensor] = {}
    for s in slices:
        weight = weights[s.tensor]
        positions = torch.from_numpy(s.positions)
        along = torch.where(positions >= 0, kept.cpu()[positions.clamp(min=0)], True)
        shape = [1] * weight.dim()
        shape[s.axis] = -1
        mask = along.to(weight.device).view(shape)
        masks[s.tensor] = mask if s.tensor not in masks else masks[s.tensor] & mask
    return masks


def coupled(channel_class: ChannelClass, keep: int, trainable: Sequence[str]) -> CoupledChannels:
    """Return the constraint "keep so many channels of this class", over its trainable tensors."""
    names = set(trainable)
    slices = tuple(s for s in channel_class.slices if s.tensor in names and not s.unlearnt)
    return CoupledChannels(channel_class.name, channel_class.size, keep, slices)


def joint_masks(
    constraints: Sequence[Constraint], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the masks of each constraint's own projection; of a shared tensor, what all of them keep.

    Args:
        constraints: The sets.
        weights: At least the tensors that they bind.
    """
    masks: dict[str, Tensor] = {}
    for c in constraints:
        for name, mask in c.masks({n: weights[n] for n in c.tensors}).items():
            masks[name] = mask if name not in masks else masks[name] & mask
    return masks


def kept_channels(channel_class: ChannelClass, masks: Mapping[str, Tensor]) -> Tensor:
    """Return the boolean mask [size] of the channels of a class that masks leave anything of.

    Args:
        channel_class: The class.
        masks: Weight name -> mask that broadcasts to the weight, as `Constraint.masks` gives them.
    """
    kept = torch.zeros(channel_class.size, dtype=torch.bool)
    masked = [s for s in channel_class.slices if s.tensor in masks]
    if not masked:
        return torch.ones_like(kept)
    for s in masked:
        mask = masks[s.tensor].cpu()
        if mask.shape[s.axis] == 1:
            along = mask.any().expand(len(s.positions))
        else:
            along = mask.movedim(s.axis, 0).flatten(1).any(1) if mask.dim() > 1 else mask
        positions = torch.from_numpy(s.positions)
        there = positions >= 0
        kept[positions[there & along]] = True
    return kept
