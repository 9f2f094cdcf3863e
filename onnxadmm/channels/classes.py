"""Classes of coupled channels: sets that a user can prune by a share, with what each channel costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxadmm.channels.labelling import Labelling
from onnxadmm.graph import Probe

Positions = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Slice:
    """Where a class lives in one tensor.

    Attributes:
        tensor: Name of the initializer or Constant output.
        axis: The axis that its channels lie on.
        positions: For each index of the axis the channel's position in the class, or -1.
        unlearnt: Whether the tensor holds statistics, a mask or a table, which are cut but neither trained nor scored.
    """

    tensor: str
    axis: int
    positions: Positions
    unlearnt: bool = False


@dataclass(frozen=True, slots=True)
class ChannelClass:
    """Channels of one kind, each coupled over the same tensors.

    Attributes:
        name: The first layer that makes them.
        size: How many channels there are.
        layers: Every layer that makes them, in graph order.
        slices: Where they live.
        parameters: Parameters that carry one channel (shared between classes where two axes cross).
        reason: Why they can't go, or None.
        labels: The label of each channel.
        renormalised: The statistic that is taken over the live channels once some went, or None.
    """

    name: str
    size: int
    layers: tuple[str, ...]
    slices: tuple[Slice, ...]
    parameters: int
    reason: str | None
    labels: Positions
    renormalised: str | None = None

    @property
    def fixed(self) -> bool:
        """Whether none of them can be removed."""
        return self.reason is not None


def classify(labelling: Labelling, probe: Probe) -> list[ChannelClass]:
    """Group coupled channels into classes: those that live on the same axes of the same tensors.

    Only channels that a layer makes are listed; kernel positions and vocabularies aren't channels.
    """
    places: dict[int, list[tuple[str, int, int]]] = {}
    for name in labelling.weights:
        for axis, labels in enumerate(labelling.axes[name]):
            found, counts = np.unique(labels, return_counts=True)
            for root, count in zip(found.tolist(), counts.tolist(), strict=True):
                if root:
                    places.setdefault(root, []).append((name, axis, count))
    groups: dict[tuple[Any, ...], list[int]] = {}
    for root, layers in labelling.producers.items():
        why = labelling.fixed.get(root), labelling.renormalised.get(root)
        key = (tuple(places.get(root, ())), tuple(layers), *why)
        groups.setdefault(key, []).append(root)
    classes: list[ChannelClass] = []
    taken: set[str] = set()
    for (where, layers, reason, renormalised), roots in groups.items():
        labels = np.array(sorted(roots), np.int64)
        slices = tuple(
            Slice(
                name,
                axis,
                _positions(labelling.axes[name][axis], labels),
                name in labelling.unlearnt,
            )
            for name, axis, _ in where
        )
        parameters = sum(
            math.prod(probe.shapes[name]) // probe.shapes[name][axis] * count
            for name, axis, count in where
            if name not in labelling.unlearnt
        )
        name = _unique(layers[0], taken)
        classes.append(
            ChannelClass(
                name, len(labels), layers, slices, parameters, reason, labels, renormalised
            )
        )
    return classes


def _positions(axis: Positions, labels: Positions) -> Positions:
    """Return, for each index of the axis, its label's place in `labels` (sorted), or -1."""
    place = np.searchsorted(labels, axis).clip(max=len(labels) - 1)
    return np.where(labels[place] == axis, place, -1)


def _unique(name: str, taken: set[str]) -> str:
    """Number a second class of the same layer: a layer's channels can belong to several."""
    candidate, n = name, 2
    while candidate in taken:
        candidate, n = f"{name}#{n}", n + 1
    taken.add(candidate)
    return candidate


def dead_labels(classes: Sequence[ChannelClass], keep: dict[str, np.ndarray[Any, Any]]) -> set[int]:
    """Return the labels that go.

    Args:
        classes: All classes.
        keep: Class name -> boolean mask [size] of the channels that stay; others stay whole.
    """
    dead: set[int] = set()
    for c in classes:
        if c.name in keep:
            dead.update(c.labels[~keep[c.name]].tolist())
    return dead
