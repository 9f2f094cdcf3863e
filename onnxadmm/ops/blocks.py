"""Channels that become positions and back, and sequences that are turned."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.ops._attributes import integer, text
from onnxadmm.ops._base import (
    BuildScope,
    LabelScope,
    Operator,
    describe,
    register,
    unlabelled,
)


@register
class DepthToSpace(Operator):
    """[N, C · b², H, W] to [N, C, H · b, W · b]."""

    op_type = "DepthToSpace"
    versions = (1, 11, 13, 28)
    attributes = frozenset({"blocksize", "mode"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Couple the channels that become the positions of one block: an output channel is b² of them."""
        x = node.inputs[0]
        assert x is not None
        axes, shape = scope.axes(x), scope.shape(node.outputs[0])
        positions = integer(node, "blocksize", 1) ** 2
        rows = axes[1].reshape(positions, -1)
        if text(node, "mode", "DCR") == "CRD":
            rows = axes[1].reshape(-1, positions).T
        for row in rows[1:]:
            scope.unite(rows[0], row, f"meets {describe(node)}")
        for labels in axes[2:]:
            scope.fix(labels, f"{describe(node)} merges these channels with others")
        spatial = [unlabelled(n) for n in shape[2:]]
        scope.assign(node.outputs[0], [axes[0], np.ascontiguousarray(rows[0]), *spatial])

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Reshape and permute in the order of the mode."""
        x, size = scope.tensor(node.inputs[0]), integer(node, "blocksize", 1)
        return scope.call(_to_space, x, size, text(node, "mode", "DCR") == "CRD")


def _to_space(x: Any, block: int, columns_first: bool) -> Any:
    """Spread channels over blocks of positions."""
    n, c, h, w = x.shape
    inner = c // block**2
    if columns_first:
        split = x.reshape(n, inner, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        split = x.reshape(n, block, block, inner, h, w).permute(0, 3, 4, 1, 5, 2)
    return split.reshape(n, inner, h * block, w * block)


@register
class SpaceToDepth(Operator):
    """[N, C, H · b, W · b] to [N, C · b², H, W]."""

    op_type = "SpaceToDepth"
    versions = (1, 13, 28)
    attributes = frozenset({"blocksize"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Repeat the labels: each position of a block becomes a copy of all channels."""
        x = node.inputs[0]
        assert x is not None
        axes, shape = scope.axes(x), scope.shape(node.outputs[0])
        for labels in axes[2:]:
            scope.fix(labels, f"{describe(node)} merges these channels with others")
        repeated = np.tile(axes[1], integer(node, "blocksize", 1) ** 2)
        scope.assign(node.outputs[0], [axes[0], repeated, *(unlabelled(n) for n in shape[2:])])

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Reshape and permute."""
        return scope.call(_to_depth, scope.tensor(node.inputs[0]), integer(node, "blocksize", 1))


def _to_depth(x: Any, block: int) -> Any:
    """Gather blocks of positions into channels."""
    n, c, h, w = x.shape
    split = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return split.reshape(n, c * block**2, h // block, w // block)


@register
class ReverseSequence(Operator):
    """The first elements of each row turned round, as many as the row's length says."""

    op_type = "ReverseSequence"
    versions = (10, 28)
    attributes = frozenset({"batch_axis", "time_axis"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Fix the two axes that it addresses; hand the others on."""
        x, lengths = node.inputs[0], node.inputs[1]
        assert x is not None
        assert lengths is not None
        axes = scope.axes(x)
        addressed = [axes[integer(node, "batch_axis", 1)], axes[integer(node, "time_axis", 0)]]
        for labels in (*addressed, *scope.axes(lengths)):
            scope.fix(labels, f"{describe(node)} turns these round")
        scope.assign(node.outputs[0], axes)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Gather along the time axis at turned indices."""
        tensors = (scope.tensor(v) for v in node.inputs)
        batch, time = integer(node, "batch_axis", 1), integer(node, "time_axis", 0)
        return scope.call(_reversed, *tensors, batch, time)


def _reversed(x: Any, lengths: Any, batch: int, time: int) -> Any:
    """Turn the first `lengths` steps of each row round."""
    import torch

    rows = x.movedim((batch, time), (0, 1))
    steps = torch.arange(rows.shape[1], device=x.device)[None]
    ends = lengths.long()[:, None]
    places = torch.where(steps < ends, ends - 1 - steps, steps)
    places = places.reshape(places.shape + (1,) * (rows.dim() - 2)).expand_as(rows)
    return rows.gather(1, places).movedim((0, 1), (batch, time))
