"""Convolutions: x [N, C, D1..Dn], weight [O, C/group, k1..kn], bias [O]."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer
from onnxadmm.ops._base import (
    BuildScope,
    CutScope,
    LabelScope,
    Operator,
    Shapes,
    describe,
    optional_input,
    register,
    unlabelled,
)
from onnxadmm.ops.windows import pad_same, read_window, resize_kernel


def tie_groups(scope: LabelScope, labels: np.ndarray[Any, Any], group: int, reason: str) -> None:
    """Couple position i of every group, so that every group keeps the same count."""
    rows = labels.reshape(group, -1)
    for row in rows[1:]:
        scope.unite(rows[0], row, reason)


@register
class Conv(Operator):
    """Convolution with groups, dilations, strides and any pads, over 1 to 3 spatial axes."""

    op_type = "Conv"
    versions: ClassVar[tuple[int, ...]] = (1, 11, 22)
    attributes = frozenset({"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"})
    weight_ports = (1, 2)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Output axis: the weight's rows. Input axis: its columns, group by group."""
        self.convolve(node, scope, optional_input(node, 2))

    def convolve(self, node: ir.Node, scope: LabelScope, bias: ir.Value | None) -> None:
        """Label a convolution of the first input with the second, and this bias."""
        x, weight = node.inputs[0], node.inputs[1]
        assert x is not None
        assert weight is not None
        group = integer(node, "group", 1)
        reason = f"meets {describe(node)}"
        x_axes, w_axes = scope.axes(x), scope.axes(weight)
        channels, filters, columns = x_axes[1], w_axes[0], w_axes[1]
        if group == 1:
            scope.unite(channels, columns, reason)
        elif len(columns) == 1:
            # Depthwise: filter i reads channel i // multiplier, and goes with it.
            multiplier = len(filters) // group
            for k in range(multiplier):
                scope.unite(channels, filters[k::multiplier], reason)
        else:
            tie_groups(scope, channels, group, reason)
            tie_groups(scope, filters, group, reason)
            scope.unite(channels[: len(columns)], columns, reason)
        for spatial in (*x_axes[2:], *w_axes[2:]):
            scope.fix(spatial, f"a position under the kernel of {describe(node)}")
        if bias is not None:
            scope.unite(filters, scope.axes(bias)[0], reason)
        scope.produce(node, filters)
        out = scope.shape(node.outputs[0])
        scope.assign(node.outputs[0], [x_axes[0], filters, *(unlabelled(n) for n in out[2:])])

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """A depthwise one has as many groups as channels; a smaller kernel needs other pads."""
        x, weight = node.inputs[0], node.inputs[1]
        assert x is not None
        assert weight is not None
        if integer(node, "group", 1) > 1 and scope.shape(weight)[1] == 1 and scope.is_cut(x, 1):
            node.attributes["group"] = ir.AttrInt64("group", scope.kept(x, 1))
        resize_kernel(node, scope)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's convolution; asymmetric pads become a pad before it."""
        import torch.nn.functional as F  # noqa: N812

        x, weight = node.inputs[0], node.inputs[1]
        assert x is not None
        assert weight is not None
        shape = scope.shape(weight)
        dimensions = len(shape) - 2
        functions = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
        if dimensions not in functions:
            raise UnsupportedError(
                f"{describe(node)}: a convolution over {dimensions} spatial axes has no torch "
                "counterpart; compress without training"
            )
        data = scope.tensor(x)
        # Without strides SAME pads are the same for every size.
        window = read_window(node, shape[2:], shape[2:])
        padding = window.before
        if window.same and max(window.strides) > 1:
            data = scope.call(pad_same, data, window)
            padding = (0,) * dimensions
        elif not window.symmetric:
            data = scope.call(F.pad, data, window.torch_pads())
            padding = (0,) * dimensions
        return scope.call(
            functions[dimensions],
            data,
            scope.tensor(weight),
            scope.tensor(optional_input(node, 2)),
            stride=window.strides,
            padding=padding,
            dilation=window.dilations,
            groups=integer(node, "group", 1),
        )

    def macs(self, node: ir.Node, shapes: Shapes) -> int:
        """Output elements times the weights that each one reads; the bias isn't counted."""
        assert node.inputs[1] is not None
        weight = shapes[node.inputs[1].name or ""]
        return math.prod(shapes[node.outputs[0].name or ""]) * math.prod(weight[1:])
