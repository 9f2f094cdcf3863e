"""Parts of pictures that boxes, angles or offsets name: pooled regions, sampling grids, deformed kernels."""

from __future__ import annotations

from typing import Any, ClassVar

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, integers, number, text
from onnxadmm.ops._base import (
    BuildScope,
    LabelScope,
    Operator,
    describe,
    fix_all,
    normal_axis,
    optional_input,
    register,
    unlabelled,
)
from onnxadmm.ops.convolution import Conv
from onnxadmm.ops.sizes import known, normal_axes, settled
from onnxadmm.ops.windows import read_window


class RegionPooling(Operator):
    """x [N, C, H, W] pooled inside boxes: [boxes, C, h, w]."""

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Hand the channels on; every one is pooled inside the same boxes."""
        x = node.inputs[0]
        assert x is not None
        axes = scope.axes(x)
        for labels in (
            axes[0],
            *axes[2:],
            *(a for v in node.inputs[1:] if v for a in scope.axes(v)),
        ):
            scope.fix(labels, f"a position that {describe(node)} reads")
        out = scope.shape(node.outputs[0])
        spatial = [unlabelled(n) for n in out[2:]]
        scope.assign(node.outputs[0], [unlabelled(out[0]), axes[1], *spatial])


@register
class RoiAlign(RegionPooling):
    """The mean, or the largest, of bilinear samples in each bin of a box [x1, y1, x2, y2]."""

    op_type = "RoiAlign"
    versions: ClassVar[tuple[int, ...]] = (16, 22)
    attributes = frozenset(
        {
            "coordinate_transformation_mode",
            "mode",
            "output_height",
            "output_width",
            "sampling_ratio",
            "spatial_scale",
        }
    )
    aligned = "half_pixel"
    """The default coordinates: since version 16 half a pixel is taken off."""

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torchvision's roi_align.

        Raises:
            UnsupportedError: The largest sample of a bin, which torchvision doesn't take.
        """
        mode = text(node, "mode", "avg")
        if mode != "avg":
            raise UnsupportedError(
                f"{describe(node)}: mode {mode!r} can't be trained yet; compress without training"
            )
        x, boxes, pictures = (scope.tensor(v) for v in node.inputs[:3])
        return scope.call(
            pool_regions,
            x,
            boxes,
            pictures,
            size=(integer(node, "output_height", 1), integer(node, "output_width", 1)),
            scale=number(node, "spatial_scale", 1.0),
            samples=integer(node, "sampling_ratio", 0),
            aligned=text(node, "coordinate_transformation_mode", self.aligned) == "half_pixel",
        )


@register
class OldRoiAlign(RoiAlign):
    """RoiAlign before coordinates were an attribute."""

    versions: ClassVar[tuple[int, ...]] = (10,)
    attributes = RoiAlign.attributes - {"coordinate_transformation_mode"}
    aligned = "output_half_pixel"


def pool_regions(
    x: Any,
    boxes: Any,
    pictures: Any,
    *,
    size: tuple[int, int],
    scale: float,
    samples: int,
    aligned: bool,
) -> Any:
    """Return the mean of the bins of each box.

    Args:
        x: [N, C, H, W].
        boxes: [boxes, 4], corners in the picture's own units.
        pictures: [boxes], the sample that each box lies in.
        size: Bins of a box.
        scale: From the boxes' units to pixels of x.
        samples: A bin's, an axis; 0 is as many as it has pixels.
        aligned: Whether half a pixel is taken off.
    """
    import torch
    from torchvision.ops import roi_align

    rows = torch.cat([pictures.to(boxes.dtype)[:, None], boxes], 1)
    return roi_align(x, rows, size, scale, samples or -1, aligned)


@register
class MaxRoiPool(RegionPooling):
    """The largest value in each bin of a box [sample, x1, y1, x2, y2], whose corners are rounded."""

    op_type = "MaxRoiPool"
    versions = (1, 22)
    attributes = frozenset({"pooled_shape", "spatial_scale"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torchvision's roi_pool."""
        x, boxes = (scope.tensor(v) for v in node.inputs)
        size, scale = integers(node, "pooled_shape", ()), number(node, "spatial_scale", 1.0)
        return scope.call(pool_largest, x, boxes, tuple(size), scale)


def pool_largest(x: Any, boxes: Any, size: tuple[int, ...], scale: float) -> Any:
    """Call torchvision's roi_pool, which is imported only where it is used."""
    from torchvision.ops import roi_pool

    return roi_pool(x, boxes, size, scale)


@register
class DeformConv(Conv):
    """A convolution whose samples are moved by offsets [N, 2 · groups · kh · kw, E1, E2], and weighed by a mask."""

    op_type = "DeformConv"
    versions = (19, 22)
    attributes = frozenset(
        {"dilations", "group", "kernel_shape", "offset_group", "pads", "strides"}
    )
    weight_ports = (1, 3)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Do as a convolution does where all channels move together; offsets and masks are positions."""
        if integer(node, "offset_group", 1) > 1:
            fix_all(
                node,
                scope,
                f"{describe(node)}: groups of channels are moved by offsets of their own",
            )
            return
        self.convolve(node, scope, optional_input(node, 3))
        assert node.inputs[0] is not None
        scope.fix(
            scope.axes(node.inputs[0])[0], f"{describe(node)} moves each sample by its own offsets"
        )
        for value in (node.inputs[2], optional_input(node, 4)):
            for labels in scope.axes(value) if value is not None else ():
                scope.fix(labels, f"an offset of {describe(node)}")

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torchvision's deform_conv2d; asymmetric pads become a pad before it.

        Raises:
            UnsupportedError: A kernel over other than two axes.
        """
        import torch.nn.functional as F  # noqa: N812

        x, weight = node.inputs[0], node.inputs[1]
        assert x is not None
        assert weight is not None
        shape = scope.shape(weight)
        if len(shape) != 4:  # noqa: PLR2004
            raise UnsupportedError(
                f"{describe(node)}: a deformed kernel over {len(shape) - 2} axes has no torch counterpart; "
                "compress without training"
            )
        window = read_window(node, shape[2:], scope.shape(x)[2:])
        data, padding = scope.tensor(x), window.before
        if not window.symmetric:
            data, padding = scope.call(F.pad, data, window.torch_pads()), (0, 0)
        return scope.call(
            convolve_deformed,
            data,
            *(scope.tensor(optional_input(node, port)) for port in (1, 2, 3, 4)),
            window=(window.strides, padding, window.dilations),
        )


def convolve_deformed(
    x: Any, weight: Any, offset: Any, bias: Any, mask: Any, *, window: tuple[Any, Any, Any]
) -> Any:
    """Call torchvision's deform_conv2d, which reads the groups off the shapes.

    Args:
        x: [N, C, H, W].
        weight: [O, C / groups, kh, kw].
        offset: [N, 2 · groups · kh · kw, E1, E2], rows before columns.
        bias: [O] or None.
        mask: [N, groups · kh · kw, E1, E2] or None.
        window: Strides, pads and dilations.
    """
    from torchvision.ops import deform_conv2d

    strides, padding, dilations = window
    return deform_conv2d(
        x, offset, weight, bias, stride=strides, padding=padding, dilation=dilations, mask=mask
    )


@register
class AffineGrid(Operator):
    """The positions that an affine map [N, n, n + 1] reads for a picture of a given size: [N, E1..En, n]."""

    op_type = "AffineGrid"
    versions = (20,)
    attributes = frozenset({"align_corners"})
    # Coordinates are no channels.
    fixes = " maps coordinates"

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's affine_grid."""
        size = known(node.inputs[1], scope)
        return scope.call(
            lay_grid,
            scope.tensor(node.inputs[0]),
            scope.tensor(node.inputs[1]) if size is None else [int(n) for n in size],
            bool(integer(node, "align_corners", 0)),
        )


def lay_grid(theta: Any, size: Any, align_corners: bool) -> Any:
    """Return the positions; the size [N, C, E1..En] may be a tensor."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    sizes = size.tolist() if isinstance(size, torch.Tensor) else size
    return F.affine_grid(theta, sizes, align_corners)


@register
class CenterCropPad(Operator):
    """The middle of some axes, or zeros around them, as a given size asks for."""

    op_type = "CenterCropPad"
    versions = (18,)
    attributes = frozenset({"axes"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Fix the axes that are brought to a size; hand the others on."""
        x, shape = node.inputs[0], scope.shape(node.outputs[0])
        assert x is not None
        axes = list(scope.axes(x))
        for axis in normal_axes(integers(node, "axes", range(len(axes))), len(axes)):
            if len(axes[axis]) != shape[axis] or settled(node.inputs[1], scope) is None:
                scope.fix(axes[axis], f"{describe(node)} crops or pads these channels")
                axes[axis] = unlabelled(shape[axis])
            else:
                scope.fix(axes[axis], f"{describe(node)} holds their number")
        scope.assign(node.outputs[0], axes)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call torch's pad, with negative pads where it crops."""
        assert node.inputs[0] is not None
        axes = integers(node, "axes", range(scope.rank(node.inputs[0])))
        sizes = known(node.inputs[1], scope)
        wanted = scope.tensor(node.inputs[1]) if sizes is None else [int(n) for n in sizes]
        return scope.call(_centred, scope.tensor(node.inputs[0]), wanted, axes)


def _centred(x: Any, sizes: Any, axes: list[int]) -> Any:
    """Bring axes of `x` to sizes, a list or a tensor; what is left over goes behind."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    pads = [0, 0] * x.dim()
    for axis, size in zip(
        axes, sizes.tolist() if isinstance(sizes, torch.Tensor) else sizes, strict=True
    ):
        place = normal_axis(axis, x.dim())
        missing = int(size) - x.shape[place]
        before = missing // 2 if missing > 0 else -(-missing // 2)
        pads[2 * (x.dim() - 1 - place)] = before
        pads[2 * (x.dim() - 1 - place) + 1] = missing - before
    return F.pad(x, pads)
