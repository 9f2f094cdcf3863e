"""GridSample: values of a picture at positions that another tensor gives."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, text
from onnxadmm.ops._base import (
    BuildScope,
    LabelScope,
    Operator,
    describe,
    register,
    unlabelled,
)

# The names of opset 16, then those since opset 20, in torch's words.
_MODES = {
    "bilinear": "bilinear",
    "nearest": "nearest",
    "bicubic": "bicubic",
    "linear": "bilinear",
    "cubic": "bicubic",
}
_PICTURE_RANK = 4


@register
class GridSample(Operator):
    """x [N, C, D1..Dn] read at grid [N, E1..En, n]: [N, C, E1..En]."""

    op_type = "GridSample"
    versions = (16, 20, 22)
    attributes = frozenset({"align_corners", "mode", "padding_mode"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Every channel is read at the same positions: hand them on, fix all else."""
        x, grid = node.inputs[0], node.inputs[1]
        assert x is not None
        assert grid is not None
        axes = scope.axes(x)
        for labels in (axes[0], *axes[2:], *scope.axes(grid)):
            scope.fix(labels, f"a position that {describe(node)} reads")
        out = scope.shape(node.outputs[0])
        scope.assign(
            node.outputs[0], [unlabelled(out[0]), axes[1], *(unlabelled(n) for n in out[2:])]
        )

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's grid_sample.

        Raises:
            UnsupportedError: A mode that torch hasn't.
        """
        import torch.nn.functional as F  # noqa: N812

        assert node.inputs[0] is not None
        mode = _MODES.get(text(node, "mode", "linear"))
        rank = scope.rank(node.inputs[0])
        if mode is None or rank > _PICTURE_RANK + (mode != "bicubic"):
            raise UnsupportedError(
                f"{describe(node)}: mode {text(node, 'mode', 'linear')!r} over {rank - 2} axes can't be "
                "trained yet; compress without training"
            )
        return scope.call(
            F.grid_sample,
            scope.tensor(node.inputs[0]),
            scope.tensor(node.inputs[1]),
            mode=mode,
            padding_mode=text(node, "padding_mode", "zeros"),
            align_corners=bool(integer(node, "align_corners", 0)),
        )
