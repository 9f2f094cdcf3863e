"""Transposed convolutions: x [N, C, D1..Dn], weight [C, O/group, k1..kn], bias [O]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, integers, text
from onnxadmm.ops._base import (
    BuildScope,
    CutScope,
    Labels,
    LabelScope,
    Operator,
    Shapes,
    describe,
    optional_input,
    register,
    unlabelled,
)
from onnxadmm.ops.convolution import tie_groups
from onnxadmm.ops.windows import read_window, resize_kernel


@dataclass(frozen=True, slots=True)
class Crop:
    """Where the output lies in the full transposed convolution (no pads), spatial axis by axis.

    Attributes:
        strides: Of the window.
        dilations: Of the window.
        before: Elements dropped in front.
        after: Elements dropped behind; negative where the output reaches beyond the last window.
    """

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    def output_padding(self) -> tuple[int, ...] | None:
        """Return torch's output_padding where torch can crop by itself, else None."""
        extra = tuple(b - a for b, a in zip(self.before, self.after, strict=True))
        limits = (max(s, d) for s, d in zip(self.strides, self.dilations, strict=True))
        return extra if all(0 <= e < n for e, n in zip(extra, limits, strict=True)) else None


def read_crop(node: ir.Node, kernel: tuple[int, ...], spatial: tuple[int, ...]) -> Crop:
    """Read the attributes of a ConvTranspose.

    Args:
        node: The node.
        kernel: The kernel's shape.
        spatial: The input's concrete spatial shape; a given output_shape depends on it.

    Raises:
        UnsupportedError: Attributes outside the standard.
    """
    window = read_window(node, kernel, spatial)
    n = len(kernel)
    extra = integers(node, "output_padding", [0] * n)
    auto = text(node, "auto_pad", "NOTSET")
    given = integers(node, "output_shape", ())[-n:]
    before, after = list(window.before), list(window.after)
    if not given and not auto.startswith("SAME"):
        after = [a - e for a, e in zip(after, extra, strict=True)]
        return Crop(window.strides, window.dilations, tuple(before), tuple(after))
    for i, (size, k, s, d) in enumerate(
        zip(spatial, kernel, window.strides, window.dilations, strict=True)
    ):
        full = (size - 1) * s + (k - 1) * d + 1
        # Without a given shape SAME asks for size * stride, and never pads the output.
        total = max(full + extra[i] - (given[i] if given else size * s), 0)
        before[i] = total // 2 if auto == "SAME_UPPER" else total - total // 2
        out = given[i] if given else full + extra[i] - total
        after[i] = full - before[i] - out
    return Crop(window.strides, window.dilations, tuple(before), tuple(after))


@register
class ConvTranspose(Operator):
    """Transposed convolution with groups, dilations, strides and any pads, over 1 to 3 spatial axes."""

    op_type = "ConvTranspose"
    versions = (1, 11, 22)
    attributes = frozenset(
        {
            "auto_pad",
            "dilations",
            "group",
            "kernel_shape",
            "output_padding",
            "output_shape",
            "pads",
            "strides",
        }
    )
    weight_ports = (1, 2)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Input axis: the weight's rows. Output axis: its columns, the same ones in every group."""
        x, weight = node.inputs[0], node.inputs[1]
        assert x is not None
        assert weight is not None
        group = integer(node, "group", 1)
        reason = f"meets {describe(node)}"
        x_axes, w_axes = scope.axes(x), scope.axes(weight)
        channels, rows, columns = x_axes[1], w_axes[0], w_axes[1]
        scope.unite(channels, rows, reason)
        if group > 1 and group == len(rows):
            # Depthwise: every output of a channel goes with it, so no column goes alone.
            scope.fix(columns, f"{describe(node)} makes as many outputs of every channel")
            filters: Labels = np.repeat(channels, len(columns))
        else:
            tie_groups(scope, channels, group, reason)
            filters = np.tile(columns, group)
        for spatial in (*x_axes[2:], *w_axes[2:]):
            scope.fix(spatial, f"a position under the kernel of {describe(node)}")
        bias = optional_input(node, 2)
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
        group = integer(node, "group", 1)
        if group > 1 and group == scope.shape(weight)[0] and scope.is_cut(x, 1):
            node.attributes["group"] = ir.AttrInt64("group", scope.kept(x, 1))
        resize_kernel(node, scope)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's transposed convolution; what it can't crop is cropped behind it."""
        import torch.nn.functional as F  # noqa: N812

        x, weight = node.inputs[0], node.inputs[1]
        assert x is not None
        assert weight is not None
        shape = scope.shape(weight)
        dimensions = len(shape) - 2
        functions: dict[int, Any] = {
            1: F.conv_transpose1d,
            2: F.conv_transpose2d,
            3: F.conv_transpose3d,
        }
        if dimensions not in functions:
            raise UnsupportedError(
                f"{describe(node)}: a transposed convolution over {dimensions} spatial axes can't be "
                "trained yet; compress without training"
            )
        crop = read_crop(node, shape[2:], scope.shape(x)[2:])
        group, padding = integer(node, "group", 1), crop.output_padding()
        data, kernel = scope.tensor(x), scope.tensor(weight)
        bias = scope.tensor(optional_input(node, 2))
        steps = {"stride": crop.strides, "dilation": crop.dilations, "groups": group}
        if padding is not None:
            return scope.call(
                functions[dimensions],
                data,
                kernel,
                bias,
                padding=crop.before,
                output_padding=padding,
                **steps,
            )
        whole = scope.call(functions[dimensions], data, kernel, None, **steps)
        return scope.call(_crop, whole, bias, crop.before, crop.after)

    def macs(self, node: ir.Node, shapes: Shapes) -> int:
        """Input elements times the weights that each one meets; the bias isn't counted."""
        assert node.inputs[0] is not None
        assert node.inputs[1] is not None
        weight = shapes[node.inputs[1].name or ""]
        return math.prod(shapes[node.inputs[0].name or ""]) * math.prod(weight[1:])


def _crop(whole: Any, bias: Any, before: Sequence[int], after: Sequence[int]) -> Any:
    """Crop each spatial axis, or stretch it with zeros, then add the bias everywhere."""
    import torch.nn.functional as F  # noqa: N812

    pads = [-p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
    result = F.pad(whole, pads)
    return result if bias is None else result + bias.reshape(1, -1, *[1] * len(before))
