"""Which axes of a weight hold its outputs and its inputs, as its operator stores them."""

from __future__ import annotations

import onnx_ir as ir

from onnxadmm.ops.roles import roles

_RECURRENT_RANK = 3  # [directions, gates x hidden, inputs]


def weight_axes(model: ir.Model) -> dict[str, tuple[int, int]]:
    """Return, for each weight of two and more axes, its axis of outputs and its axis of inputs.

    (0, 1), as convolutions store them, unless the operator stores them otherwise. Of a weight that
    several layers read the first one decides; one that doesn't reach its layer directly has (0, 1).
    """
    axes: dict[str, tuple[int, int]] = {}
    for name, role in roles(model).items():
        rank = len(role.value.shape) if role.value.shape is not None else 0
        if not role.weight or rank < 2:  # noqa: PLR2004
            continue
        axes[name] = (0, 1)
        for node in role.readers[:1]:
            for port, value in enumerate(node.inputs):
                if value is role.value:
                    axes[name] = _axes_of(node, port, rank)
    return axes


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
