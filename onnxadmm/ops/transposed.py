"""Transposed convolutions: x [N, C, D1..Dn], weight [C, O/group, k1..kn], bias [O]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, integers
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
from onnxadmm.ops.windows import Window, read_window, resize_kernel


class Crop(NamedTuple):
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


class Frame(NamedTuple):
    """The attributes of a ConvTranspose: with SAME pads or a given output shape, the crop depends on the input's size.

    Attributes:
        window: Kernel, strides, dilations and explicit pads.
        extra: Output padding.
        given: Spatial shape of the output; empty where pads decide.
    """

    window: Window
    extra: tuple[int, ...]
    given: tuple[int, ...]

    @property
    def is_open(self) -> bool:
        """Whether another size of the input is cropped in another way."""
        return bool(self.given or self.window.same)

    def at(self, spatial: Sequence[int]) -> Crop:
        """Return the crop for an input of this spatial shape."""
        w = self.window
        if not self.is_open:
            after = tuple(a - e for a, e in zip(w.after, self.extra, strict=True))
            return Crop(w.strides, w.dilations, w.before, after)
        before, after_ = [], []
        for i, (size, reach, stride) in enumerate(zip(spatial, w.spread, w.strides, strict=True)):
            full = (size - 1) * stride + reach
            # Without a given shape SAME asks for size * stride, and never pads the output.
            wanted = self.given[i] if self.given else size * stride
            total = max(full + self.extra[i] - wanted, 0)
            before.append(total // 2 if w.same == "SAME_UPPER" else total - total // 2)
            out = self.given[i] if self.given else full + self.extra[i] - total
            after_.append(full - before[i] - out)
        return Crop(w.strides, w.dilations, tuple(before), tuple(after_))


def read_frame(node: ir.Node, kernel: tuple[int, ...]) -> Frame:
    """Read the attributes of a ConvTranspose.

    Args:
        node: The node.
        kernel: The kernel's shape.

    Raises:
        UnsupportedError: Attributes outside the standard.
    """
    n = len(kernel)
    extra = tuple(integers(node, "output_padding", [0] * n))
    given = tuple(integers(node, "output_shape", ())[-n:])
    return Frame(read_window(node, kernel, (1,) * n), extra, given)


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
        frame = read_frame(node, shape[2:])
        group = integer(node, "group", 1)
        data, kernel = scope.tensor(x), scope.tensor(weight)
        bias = scope.tensor(optional_input(node, 2))
        crop = frame.at(scope.shape(x)[2:])
        padding = crop.output_padding()
        if frame.is_open or padding is None:
            return scope.call(transpose_cropped, (data, kernel, bias), *frame, group)
        return scope.call(
            functions[dimensions],
            data,
            kernel,
            bias,
            padding=crop.before,
            output_padding=padding,
            stride=crop.strides,
            dilation=crop.dilations,
            groups=group,
        )

    def macs(self, node: ir.Node, shapes: Shapes) -> int:
        """Input elements times the weights that each one meets; the bias isn't counted."""
        assert node.inputs[0] is not None
        assert node.inputs[1] is not None
        weight = shapes[node.inputs[1].name or ""]
        return math.prod(shapes[node.inputs[0].name or ""]) * math.prod(weight[1:])


def transpose_cropped(
    inputs: Sequence[Any],
    window: Window,
    extra: tuple[int, ...],
    given: tuple[int, ...],
    groups: int,
) -> Any:
    """Convolve, crop each spatial axis as the size asks for, or stretch it with zeros, and add the bias everywhere.

    Args:
        inputs: x, weight, bias or None.
        window: With `extra` and `given` a `Frame`.
        extra: Output padding.
        given: Spatial shape of the output, or empty.
        groups: Of channels.
    """
    import torch.nn.functional as F  # noqa: N812

    x, kernel, bias = inputs
    n = x.dim() - 2
    function: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[n - 1]
    crop = Frame(window, extra, given).at(x.shape[2:])
    steps = {"stride": crop.strides, "dilation": crop.dilations, "groups": groups}
    padding = crop.output_padding()
    if padding is not None:
        return function(x, kernel, bias, padding=crop.before, output_padding=padding, **steps)
    whole = function(x, kernel, None, **steps)
    pairs = zip(reversed(crop.before), reversed(crop.after), strict=True)
    result = F.pad(whole, [-p for pair in pairs for p in pair])
    return result if bias is None else result + bias.reshape(1, -1, *[1] * n)
