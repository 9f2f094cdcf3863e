"""Which axes of a weight hold its outputs and its inputs, as its operator stores them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxadmm.graph import constant_of
from onnxadmm.ops.roles import roles

_PASSED = {"Transpose", "Identity", "Cast"}
_RECURRENT_RANK = 3  # [directions, gates x hidden, inputs]


def weight_axes(model: ir.Model) -> dict[str, tuple[int, int]]:
    """Return, for each weight of two and more axes, its axis of outputs and its axis of inputs.

    (0, 1), as convolutions store them, unless the operator stores them otherwise. Of a weight that
    several layers read the first one decides. It is followed through Transpose, Identity and Cast; one that
    reaches its layer through anything else has (0, 1).
    """
    axes: dict[str, tuple[int, int]] = {}
    for name, role in roles(model).items():
        rank = len(role.value.shape) if role.value.shape is not None else 0
        if not role.weight or rank < 2:  # noqa: PLR2004
            continue
        axes[name] = (0, 1)
        for node in role.readers[:1]:
            for port, value in enumerate(node.inputs):
                origin = origin_of(value)
                if origin is not None and origin.held is role.value:
                    outputs, inputs = _axes_of(node, port, rank)
                    axes[name] = (origin.axes[outputs], origin.axes[inputs])
    return axes


@dataclass(frozen=True, slots=True)
class Origin:
    """A held tensor that a value is, but for the order of its axes and its type.

    Attributes:
        held: The tensor.
        axes: For each axis of the value, the tensor's.
        same_type: Whether nothing casts it.
    """

    held: ir.Value
    axes: tuple[int, ...]
    same_type: bool


def origin_of(value: ir.Value | None) -> Origin | None:
    """Return what a value is made of where only Transpose, Identity and Cast lie between; else None."""
    passed: list[tuple[int, ...] | None] = []
    same_type = True
    while value is not None:
        rank = _rank_held(value)
        if rank is not None:
            axes = tuple(range(rank))
            for order in reversed(passed):
                # Without an order a Transpose turns all axes around.
                axes = axes[::-1] if order is None else tuple(axes[i] for i in order)
            return Origin(value, axes, same_type)
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in _PASSED:
            return None
        same_type &= node.op_type != "Cast"
        if node.op_type == "Transpose":
            perm = node.attributes.get("perm")
            passed.append(None if perm is None else tuple(perm.as_ints()))
        value = node.inputs[0]
    return None


def _rank_held(value: ir.Value) -> int | None:
    """Return a held tensor's number of axes; None of what the graph computes."""
    if value.const_value is not None and value.producer() is None:
        return len(value.const_value.shape)  # its content may be computed only when it is asked for
    content = constant_of(value)
    return None if content is None else content.ndim


def _axes_of(node: ir.Node, port: int, rank: int) -> tuple[int, int]:
    outputs, inputs = 0, 1
    if node.op_type in {"MatMul", "FusedMatMul"}:
        # The right factor is [.., K, N], the left one [.., M, K].
        outputs, inputs = (rank - 1, rank - 2) if port == 1 else (rank - 2, rank - 1)
    elif node.op_type == "Gemm":
        transposed = node.attributes.get("transB" if port == 1 else "transA")
        swapped = transposed is not None and bool(transposed.as_int())
        outputs, inputs = (0, 1) if swapped == (port == 1) else (1, 0)
    elif node.op_type in {"ConvTranspose", "Gather"}:
        outputs, inputs = 1, 0
    elif node.op_type in {"LSTM", "GRU", "RNN"} and rank == _RECURRENT_RANK:
        outputs, inputs = 1, 2
    return outputs, inputs
