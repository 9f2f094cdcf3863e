"""Arithmetic and comparisons of unsigned integers beyond 8 bits, which torch stores but doesn't compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._base import BuildScope

_UNSIGNED = {ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64}
# torch's names on the left, numpy's on the right, where they differ.
_NUMPY = {
    "sub": "subtract",
    "mul": "multiply",
    "div": "floor_divide",
    "eq": "equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "bitwise_left_shift": "left_shift",
    "bitwise_right_shift": "right_shift",
}


def kind_of_value(value: ir.Value | None, scope: BuildScope) -> ir.DataType | None:
    """Return a value's element type, or None where it isn't known."""
    try:
        return None if value is None else scope.kind(value)
    except UnsupportedError:
        return None


def is_unsigned(value: ir.Value | None, scope: BuildScope) -> bool:
    """Whether a value's type is one of those that this file is for."""
    return kind_of_value(value, scope) in _UNSIGNED


def compute(name: str, *tensors: Any) -> Any:
    """Compute an element-wise function by torch's name in numpy, with its wrapping; no gradient."""
    import torch

    arrays = [t.detach().cpu().numpy() for t in tensors]
    with np.errstate(all="ignore"):
        found = getattr(np, _NUMPY.get(name, name))(*arrays)
    return torch.from_numpy(np.asarray(found)).to(tensors[0].device)
