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
        mask &= ~np.isin(labels, gone).reshape(shape)
    return mask
