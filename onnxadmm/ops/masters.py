"""Weights that are stored in integers: trained as a float master, and rounded to their levels on the way back.

The master begins at the values that the levels stand for. While it learns, the network computes with the levels
nearest to it, as it will afterwards (see `onnxadmm.ops.quantization`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.graph import constant_of
from onnxadmm.ops._attributes import integer
from onnxadmm.ops.roles import LEVELS, Role, element_type

Array = np.ndarray[Any, Any]


def has_master(role: Role) -> bool:
    """Whether a weight is stored in levels that a float master can learn for: one scale, or one an index."""
    node = role.dequantize
    if not role.learns or node is None or integer(node, "block_size", 0):
        return False
    scale = constant_of(node.inputs[1])
    return scale is not None and scale.ndim <= 1 and scale.dtype in (np.float32, np.float64)


def master_of(role: Role) -> Array:
    """Return the values that a weight's levels stand for, float32."""
    levels = constant_of(role.value)
    assert levels is not None
    scale, zero = _terms(role, levels.ndim)
    return np.asarray((levels.astype(np.float32) - zero) * scale, np.float32)


def levels_of(role: Role, master: Array) -> Array:
    """Return the levels nearest to a master, in the weight's own type.

    Where the master is what the present levels stand for, they stay: float32 can't tell all of int32 apart.
    """
    before = constant_of(role.value)
    kind = element_type(role.value)
    assert before is not None
    assert kind is not None
    scale, zero = _terms(role, before.ndim)
    low, high = LEVELS[kind]
    nearest = np.clip(np.rint(master.astype(np.float64) / scale) + zero, low, high)
    kept = master_of(role) == master
    return np.where(kept, before.astype(np.float64), nearest).astype(before.dtype)


def _terms(role: Role, rank: int) -> tuple[Array, Array]:
    """Return scale and zero point, laid along the weight's axis."""
    node = role.dequantize
    assert node is not None
    scale, zero = (constant_of(v) for v in (*node.inputs[1:], None)[:2])
    assert scale is not None
    zero = np.zeros_like(scale) if zero is None else zero
    shape = [1] * rank
    if scale.size > 1:
        shape[integer(node, "axis", 1)] = -1
    return (
        scale.astype(np.float32).reshape(shape if rank else ()),
        zero.astype(np.float32).reshape(shape if rank else ()),
    )


def bounds(role: Role) -> tuple[int, int]:
    """Return the smallest and the largest level."""
    kind = element_type(role.value)
    assert kind is not None
    return LEVELS[kind]


def read_by_master(node: ir.Node, masters: dict[int, Role]) -> Role | None:
    """Return the weight whose levels a DequantizeLinear turns into values, or None."""
    value = node.inputs[0] if node.op_type == "DequantizeLinear" and node.inputs else None
    return None if value is None else masters.get(id(value))
