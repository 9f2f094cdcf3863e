"""Elements before and behind each axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import constant_of
from onnxadmm.ops._attributes import number, text
from onnxadmm.ops._base import (
    BuildScope,
    LabelScope,
    Operator,
    describe,
    register,
    unlabelled,
)
from onnxadmm.ops.sizes import known, normal_axes, partly_known, settled


@register
class Pad(Operator):
    """A constant, a reflection, the edge or the other end around a tensor; negative pads crop."""

    op_type = "Pad"
    versions = (2, 11, 13, 18, 19, 21, 23, 24, 25)
    attributes = frozenset({"mode", "pads", "value"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Channels that a constant surrounds keep their labels; other modes copy channels and fix them."""
        x = node.inputs[0]
        assert x is not None
        axes = list(scope.axes(x))
        shape = scope.shape(node.outputs[0])
        pads = _pads(node, scope, len(axes))
        constant = text(node, "mode", "constant") == "constant"
        for a, labels in enumerate(axes):
            before, after = pads[a]
            if (before, after) == (0, 0):
                continue
            if constant and min(before, after) >= 0:
                axes[a] = np.concatenate([unlabelled(before), labels, unlabelled(after)])
                continue
            scope.fix(labels, f"{describe(node)} pads along these channels")
            axes[a] = unlabelled(shape[a])
        scope.assign(node.outputs[0], axes)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's pad for constants; index each axis for the other modes: torch's own skip some.

        Raises:
            UnsupportedError: A mode that isn't in the standard.
        """
        mode = text(node, "mode", "constant")
        if mode not in ("constant", "reflect", "edge", "wrap"):
            raise UnsupportedError(
                f"{describe(node)}: padding mode {mode!r} can't be trained yet; compress without training"
            )
        assert node.inputs[0] is not None
        axes: Any = list(range(scope.rank(node.inputs[0])))
        if _input(node, 3) is not None:
            chosen = known(_input(node, 3), scope)
            axes = (
                scope.tensor(_input(node, 3)) if chosen is None else normal_axes(chosen, len(axes))
            )
        if "pads" in node.attributes:
            pads: Any = [int(n) for n in node.attributes["pads"].as_ints()]
        else:
            held = known(_input(node, 1), scope)
            pads = scope.tensor(_input(node, 1)) if held is None else [int(n) for n in held]
        value: Any = number(node, "value", 0.0)
        if _input(node, 2) is not None:
            content = constant_of(_input(node, 2))
            value = scope.tensor(_input(node, 2)) if content is None else content.reshape(()).item()
        return scope.call(_padded, scope.tensor(node.inputs[0]), pads, axes, mode, value)


def _pads(node: ir.Node, scope: LabelScope, rank: int) -> list[tuple[int, int]]:
    """Return (before, after) of each axis; (-1, -1) where an input may change them."""
    unknown = [(-1, -1)] * rank
    axes = list(range(rank))
    if _input(node, 3) is not None:
        chosen = settled(_input(node, 3), scope)
        if chosen is None:
            return unknown
        axes = normal_axes(chosen, rank)
    if "pads" in node.attributes:
        found: Sequence[Any] = list(node.attributes["pads"].as_ints())
    else:
        content = settled(_input(node, 1), scope)
        found = content.tolist() if content is not None else partly_known(_input(node, 1), scope)
    if len(found) != 2 * len(axes):
        return unknown
    result = [(0, 0)] * rank
    for k, axis in enumerate(axes):
        before, after = found[k], found[k + len(axes)]
        told = isinstance(before, int) and isinstance(after, int)
        result[axis] = (before, after) if told else (-1, -1)
    return result


def _input(node: ir.Node, port: int) -> ir.Value | None:
    return node.inputs[port] if port < len(node.inputs) else None


def _padded(x: Any, pads: Any, axes: Any, mode: str, value: Any) -> Any:
    """Pad `x`; `pads` holds the numbers before every one of `axes`, then those behind."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    axes = normal_axes(axes.tolist(), x.dim()) if isinstance(axes, torch.Tensor) else axes
    amounts = [int(n) for n in (pads.tolist() if isinstance(pads, torch.Tensor) else pads)]
    pairs = dict(
        zip(axes, zip(amounts[: len(axes)], amounts[len(axes) :], strict=True), strict=True)
    )
    if mode == "constant":
        fill = value.item() if isinstance(value, torch.Tensor) else value
        flat = [n for a in reversed(range(x.dim())) for n in pairs.get(a, (0, 0))]
        return F.pad(x, flat, value=fill)
    for axis, (before, after) in pairs.items():
        if (before, after) != (0, 0):
            x = _extended(x, axis, before, after, mode)
    return x


def _extended(x: Any, axis: int, before: int, after: int, mode: str) -> Any:
    """Extend or crop one axis with elements of its own."""
    import torch

    size = x.shape[axis]
    index = torch.arange(-before, size + after, device=x.device)
    if mode == "edge":
        index = index.clamp(0, size - 1)
    elif mode == "wrap":
        index = index.remainder(size)
    else:
        period = max(2 * (size - 1), 1)
        index = index.remainder(period)
        index = torch.where(index >= size, period - index, index)
    return x.index_select(axis, index)
