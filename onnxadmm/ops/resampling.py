"""Resize and Upsample: every output position is a weighted sum of a few input positions of its axis.

Axis by axis: torch's own interpolation offers a part of the standard's coordinates and roundings, so the
positions and weights are computed here, in float32 as ONNX Runtime does, and gathered.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import constant_of
from onnxadmm.ops._attributes import integer, integers, number, text
from onnxadmm.ops._base import (
    BuildScope,
    CutScope,
    LabelScope,
    Operator,
    describe,
    fix_all,
    register,
    unlabelled,
)
from onnxadmm.ops.shape import meet_size
from onnxadmm.ops.sizes import Size, entries, normal_axes, target_sizes

_COORDINATES = {
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
}
_POLICIES = {"stretch": None, "not_larger": min, "not_smaller": max}
_ROUNDINGS = {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple"}


class Sampling(NamedTuple):
    """How positions are found and weighed: the standard's attributes."""

    mode: str
    coordinates: str
    rounding: str
    cubic: float
    exclude_outside: bool
    antialias: bool = False
    policy: str = "stretch"
    outside: float = 0.0


class Resampling(Operator):
    """Axes brought to other sizes."""

    scales_port: int | None = 1
    sizes_port: int | None = None

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Axes that keep their size in every run keep their labels; resampled ones are fixed."""
        x = node.inputs[0]
        assert x is not None
        cropped = text(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize"
        if cropped or text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
            fix_all(node, scope, f"{describe(node)} crops, or sizes axes by each other")
            return
        axes, shape = list(scope.axes(x)), scope.shape(node.outputs[0])
        sizes = _input(node, self.sizes_port)
        scales = self._scales(node)
        wanted = None if sizes is None else entries(sizes, scope)
        rewritable = wanted is not None and all(isinstance(e, int) for e in wanted)
        for position, axis in enumerate(self._axes(node, len(axes))):
            labels = axes[axis]
            entry = None if wanted is None else wanted[position]
            if isinstance(entry, Size) and meet_size(node, labels, entry, scope):
                continue
            same = entry == len(labels) and rewritable
            if same or (sizes is None and scales is not None and scales[position] == 1.0):
                continue
            scope.fix(labels, f"{describe(node)} resamples these channels")
            axes[axis] = unlabelled(shape[axis])
        scope.assign(node.outputs[0], axes)

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Write the new size of each axis that shrank into the sizes."""
        sizes = _input(node, self.sizes_port)
        wanted = None if sizes is None else entries(sizes, scope)
        if wanted is None or not all(isinstance(e, int) for e in wanted):
            return
        output = node.outputs[0]
        axes = self._axes(node, len(scope.shape(output)))
        if any(scope.is_cut(output, axis) for axis in axes):
            # Only sizes that are cut: what the probe saw elsewhere may be one run's.
            new = np.array(
                [
                    scope.kept(output, axis) if scope.is_cut(output, axis) else entry
                    for axis, entry in zip(axes, wanted, strict=True)
                ],
                np.int64,
            )
            scope.replace_constant(node, self.sizes_port or 0, new)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Gather and weigh, axis by axis.

        Raises:
            UnsupportedError: A mode, coordinates or a rounding that isn't built.
        """
        x = node.inputs[0]
        assert x is not None
        sampling = self._sampling(node)
        sizes_input, scales_input = _input(node, self.sizes_port), _input(node, self.scales_port)
        sizes: Any = None
        scales: Any = self._scales(node)
        if sizes_input is not None:
            sizes, scales = target_sizes(sizes_input, scope), None
            sizes = scope.tensor(sizes_input) if sizes is None else sizes
        elif scales is None:
            scales = scope.tensor(scales_input)
        axes = self._axes(node, scope.rank(x))
        roi: Any = None
        if sampling.coordinates == "tf_crop_and_resize":
            held = constant_of(_input(node, 1))
            roi = scope.tensor(node.inputs[1]) if held is None else [float(r) for r in held]
        return scope.call(_resampled, scope.tensor(x), axes, (sizes, scales, roi), sampling)

    def _axes(self, node: ir.Node, rank: int) -> list[int]:
        return normal_axes(integers(node, "axes", range(rank)), rank)

    def _scales(self, node: ir.Node) -> list[float] | None:
        """Return the scales where the graph holds them."""
        content = constant_of(_input(node, self.scales_port))
        return None if content is None else [float(s) for s in content]

    def _sampling(self, node: ir.Node) -> Sampling:
        found = Sampling(
            text(node, "mode", "nearest"),
            text(node, "coordinate_transformation_mode", "half_pixel"),
            text(node, "nearest_mode", "round_prefer_floor"),
            number(node, "cubic_coeff_a", -0.75),
            bool(integer(node, "exclude_outside", 0)),
            bool(integer(node, "antialias", 0)),
            text(node, "keep_aspect_ratio_policy", "stretch"),
            number(node, "extrapolation_value", 0.0),
        )
        wrong = None
        if found.mode not in ("nearest", "linear", "cubic"):
            wrong = f"mode {found.mode!r}"
        elif found.coordinates not in _COORDINATES:
            wrong = f"coordinate_transformation_mode {found.coordinates!r}"
        elif found.rounding not in _ROUNDINGS:
            wrong = f"nearest_mode {found.rounding!r}"
        elif found.antialias and found.mode == "nearest":
            wrong = "antialias of the nearest position"
        elif found.policy not in _POLICIES:
            wrong = f"keep_aspect_ratio_policy {found.policy!r}"
        if wrong:
            raise UnsupportedError(
                f"{describe(node)}: {wrong} can't be trained yet; compress without training"
            )
        return found


def _input(node: ir.Node, port: int | None) -> ir.Value | None:
    """Return an input that is there; exporters write an empty tensor for one that isn't."""
    value = node.inputs[port] if port is not None and port < len(node.inputs) else None
    content = constant_of(value)
    return None if content is not None and content.size == 0 else value


@register
class Resize(Resampling):
    """To sizes, or by scales."""

    op_type = "Resize"
    versions = (11, 13, 18, 19)
    attributes = frozenset(
        {
            "antialias",
            "axes",
            "coordinate_transformation_mode",
            "cubic_coeff_a",
            "exclude_outside",
            "extrapolation_value",
            "keep_aspect_ratio_policy",
            "mode",
            "nearest_mode",
        }
    )
    scales_port, sizes_port = 2, 3


@register
class OldResize(Resampling):
    """Resize of opset 10: by scales, from the corner."""

    op_type = "Resize"
    versions: ClassVar[tuple[int, ...]] = (10,)
    attributes = frozenset({"mode"})

    def _sampling(self, node: ir.Node) -> Sampling:
        found = super()._sampling(node)
        return found._replace(coordinates="asymmetric", rounding="simple")


@register
class Upsample(OldResize):
    """Resize by its first name."""

    op_type = "Upsample"
    versions = (7, 9)
    attributes = frozenset({"mode", "scales"})

    def _scales(self, node: ir.Node) -> list[float] | None:
        if "scales" in node.attributes:
            return [float(s) for s in node.attributes["scales"].as_floats()]
        return super()._scales(node)


def _resampled(x: Any, axes: list[int], target: tuple[Any, Any, Any], sampling: Sampling) -> Any:
    """Bring the axes of `x` to sizes or by scales, within a region: lists of numbers or tensors."""
    import torch

    wanted, factors, roi = (t.tolist() if isinstance(t, torch.Tensor) else t for t in target)
    choose = _POLICIES[sampling.policy]
    if wanted is not None and choose is not None:
        common = choose(
            np.float32(w) / np.float32(x.shape[a]) for w, a in zip(wanted, axes, strict=True)
        )
        wanted = [int(np.floor(common * x.shape[a] + 0.5)) for a in axes]
        factors = [common] * len(axes)
    for position, axis in enumerate(axes):
        before = x.shape[axis]
        if wanted is not None:
            after = int(wanted[position])
            exact = np.float32(after) / np.float32(before)
            scale = exact if factors is None else np.float32(factors[position])
        else:
            scale = np.float32(factors[position])
            after = int(np.floor(scale * np.float32(before)))
        region = None if roi is None else (roi[position], roi[position + len(axes)])
        if after == before and scale == 1 and region in (None, (0.0, 1.0)):
            continue
        where = _positions(before, after, scale, sampling.coordinates, region)
        found = _weighed(x, axis, *_taps(before, where, scale, sampling))
        outside = (where < 0) | (where > before - 1)
        if region is not None and outside.any():
            spread = [1] * x.dim()
            spread[axis] = -1
            mask = torch.from_numpy(outside).to(x.device).reshape(spread)
            found = found.masked_fill(mask, sampling.outside)
        x = found
    return x


def _weighed(x: Any, axis: int, places: Any, weights: Any) -> Any:
    """Return the sum over taps of the elements at `places` [taps, out] times `weights`, or only the elements."""
    import torch

    index = torch.from_numpy(places).to(x.device)
    if weights is None:
        return x.index_select(axis, index[0])
    factors = torch.from_numpy(weights).to(x.device, x.dtype)
    spread = [1] * x.dim()
    spread[axis] = -1
    return sum(
        x.index_select(axis, row) * factor.reshape(spread)
        for row, factor in zip(index, factors, strict=True)
    )


def _taps(before: int, where: Any, scale: Any, sampling: Sampling) -> tuple[Any, Any]:
    """Return the input positions [taps, out] of each place that is looked at and their weights, if any."""
    if sampling.mode == "nearest":
        places = _rounded(where, sampling.rounding, scale).astype(np.int64)
        return places.clip(0, before - 1)[None], None
    if sampling.antialias:
        return _smooth_taps(before, where, scale, sampling)
    if sampling.mode == "linear":
        where = where.clip(0, before - 1)
        low = np.floor(where).astype(np.int64)
        share = where - low
        places = np.stack([low, np.minimum(low + 1, before - 1)])
        return places, np.stack([1 - share, share]).astype(np.float32)
    low = np.floor(where).astype(np.int64)
    places = low + np.arange(-1, 3)[:, None]
    weights = _cubic(where - places, sampling.cubic)
    if sampling.exclude_outside:
        weights = np.where((places >= 0) & (places < before), weights, 0)
        weights = weights / weights.sum(0)
    return places.clip(0, before - 1), weights.astype(np.float32)


def _cubic(distance: Any, free: float) -> Any:
    """Return Keys' kernel, IEEE ASSP 29(6), 1981, equation 15 with its free parameter."""
    d, a = np.abs(distance), np.float32(free)
    inner = ((a + 2) * d - (a + 3)) * d * d + 1
    outer = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, inner, np.where(d < 2, outer, 0))  # noqa: PLR2004  (where it ends)


def _smooth_taps(before: int, where: Any, scale: Any, sampling: Sampling) -> tuple[Any, Any]:
    """Return positions and weights of kernels that are stretched by as much as the axis shrinks.

    What lies beyond an end counts for the end, or not at all with `exclude_outside`.
    """
    stretch = max(np.float32(1) / np.float32(scale), np.float32(1))
    reach = stretch * (1 if sampling.mode == "linear" else 2)
    centre = where + np.float32(0.5)
    first = np.floor(centre - reach + np.float32(0.5)).astype(np.int64)
    last = np.floor(centre + reach + np.float32(0.5)).astype(np.int64)
    places = first + np.arange(int((last - first).max(initial=1)))[:, None]
    distance = (places - centre + np.float32(0.5)) / stretch
    weights = (
        np.maximum(1 - np.abs(distance), 0)
        if sampling.mode == "linear"
        else _cubic(distance, sampling.cubic)
    )
    inside = (places >= 0) & (places < before) if sampling.exclude_outside else True
    weights = np.where((places < last) & inside, weights, 0)
    return places.clip(0, before - 1), (weights / weights.sum(0)).astype(np.float32)


def _positions(
    before: int, after: int, scale: Any, coordinates: str, region: tuple[float, float] | None
) -> Any:
    """Return the place in the input, in elements, that each output element looks at."""
    out = np.arange(after, dtype=np.float32)
    half = np.float32(0.5)
    if region is not None:
        start, end = (np.float32(r) for r in region)
        if after == 1:
            return np.full_like(out, half * (start + end) * (before - 1))
        step = (end - start) * np.float32(before - 1) / np.float32(after - 1)
        return start * np.float32(before - 1) + out * step
    if coordinates == "asymmetric":
        return out / scale
    if coordinates == "align_corners":
        if after == 1:
            return np.zeros_like(out)
        return out * np.float32(before - 1) / np.float32(after - 1)
    if coordinates == "pytorch_half_pixel" and after <= 1:
        return np.zeros_like(out)
    if coordinates == "half_pixel_symmetric":
        # The part of the last output element that the input doesn't cover is shared by both ends.
        # It is rounded once: a tie between two elements hangs on it.
        shift = np.float32(before / 2 * (1 - after / (float(scale) * before)))
        return shift + (out + half) / scale - half
    return (out + half) / scale - half


def _rounded(where: Any, rounding: str, scale: Any) -> Any:
    """Return whole positions."""
    half = np.float32(0.5)
    if rounding == "simple":
        return np.ceil(where) if scale < 1 else np.floor(where)
    if rounding == "floor":
        return np.floor(where)
    if rounding == "ceil":
        return np.ceil(where)
    if rounding == "round_prefer_ceil":
        return np.floor(where) + (where - np.floor(where) >= half)
    return np.ceil(where) - (np.ceil(where) - where >= half)
