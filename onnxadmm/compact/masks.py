"""Which elements of a tensor stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def alive_mask(axes: Sequence[Array], gone: Array) -> Array:
    """Return the boolean mask, in the tensor's shape, of the elements that carry no dead label."""
    mask = np.ones([len(a) for a in axes], bool)
    for axis, labels in enumerate(axes):
        shape = [1] * len(axes)
        shape[axis] = -1
        mask &= ~among(labels, gone).reshape(shape)
    return mask


def among(labels: Array, chosen: Array) -> Array:
    """Return for each label whether it is among the chosen ones, which are sorted: `np.isin` without its setup."""
    if not len(chosen):
        return np.zeros(labels.shape, bool)
    places = np.searchsorted(chosen, labels).clip(max=len(chosen) - 1)
    found: Array = chosen[places] == labels
    return found
