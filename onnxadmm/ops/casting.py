"""The same values in another element type, or the same bits read as another one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.ops._attributes import integer, text
from onnxadmm.ops._base import BuildScope, CutScope, register
from onnxadmm.ops.activation import Passing
from onnxadmm.ops.element_types import FLOAT8, torch_type
from onnxadmm.ops.shape import freezes
from onnxadmm.ops.sizes import Unknown, settled_entries, sizes_in

_BITS = {
    ir.DataType.INT2: 2,
    ir.DataType.UINT2: 2,
    ir.DataType.INT4: 4,
    ir.DataType.UINT4: 4,
}
_SIGNED = {ir.DataType.INT2, ir.DataType.INT4}


@register
class Cast(Passing):
    """The same values in another type."""

    op_type = "Cast"
    versions = (6, 9, 13, 19, 21, 23, 24, 25, 28)
    attributes = frozenset({"to", "saturate", "round_mode"})

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Keep a size that is calculated with, as 1 / sqrt(size of a head) is, at what it was."""
        x = node.inputs[0]
        if x is None or not freezes(node) or scope.constant(x) is not None:
            return
        found = settled_entries(x, scope)
        if found is None or len(found) != 1 or isinstance(found[0], Unknown):
            return
        before = (
            found[0] if isinstance(found[0], int) else scope.shape(found[0].value)[found[0].axis]
        )
        if any(scope.is_cut(size.value, size.axis) for size in sizes_in(x, scope)):
            scope.replace_constant(node, 0, np.full(scope.shape(x), before, np.int64))

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Convert by the rules of the standard where torch's own are others."""
        return convert(node, scope, ir.DataType(integer(node, "to", 1)))


@register
class CastLike(Passing):
    """The first input's values in the second one's type."""

    op_type = "CastLike"
    versions = (15, 19, 21, 23, 24, 25)
    attributes = frozenset({"saturate", "round_mode"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Convert to the type of the second input."""
        target = node.inputs[1]
        assert target is not None
        return convert(node, scope, scope.kind(target))


def convert(node: ir.Node, scope: BuildScope, to: ir.DataType) -> Any:
    """Add the conversion of a node's first input to the torch graph."""
    import torch

    x = scope.tensor(node.inputs[0])
    kind = torch_type(to)
    saturate = bool(integer(node, "saturate", 1))
    if to in FLOAT8:
        return scope.call(to_float8, x, kind, saturate)
    if to is ir.DataType.FLOAT8E8M0:
        return scope.call(to_power_of_two, x, text(node, "round_mode", "up"), saturate)
    if to is ir.DataType.FLOAT4E2M1:
        return scope.call(to_float4, x)
    if to in _BITS:
        return scope.call(to_narrow, x, _BITS[to], to in _SIGNED)
    return scope.call(torch.Tensor.to, x, kind)


def to_float8(x: Any, kind: Any, saturate: bool) -> Any:
    """Return `x` in a type of 8 bits; what is too large becomes the largest number, or none."""
    import torch

    if saturate:
        limit = torch.finfo(kind).max
        return x.clamp(-limit, limit).to(kind)
    if kind == torch.float8_e4m3fn:
        # torch saturates this type. Halfway to the number that would come next, ties are even: 464.
        x = torch.where(x.abs() > 464, torch.nan, x)  # noqa: PLR2004
    return x.to(kind)


def to_power_of_two(x: Any, rounding: str, saturate: bool) -> Any:
    """Return the powers of two, 2^-127 to 2^127, next to positive `x`."""
    import torch

    fraction, exponent = torch.frexp(x.float())
    # x = fraction · 2^exponent with 0.5 <= fraction < 1.
    bound = {"up": 0.5, "down": 1.0, "nearest": 0.75}[rounding]
    up = fraction >= bound if rounding == "nearest" else fraction > bound
    biased = exponent - 1 + up.to(exponent.dtype) + 127
    biased = torch.where(x == 0, 0 if saturate else 255, biased)
    biased = torch.where(torch.isposinf(x), 254 if saturate else 255, biased)
    if saturate:
        biased = biased.clamp(0, 254)
    wrong = torch.isnan(x) | (biased < 0) | (biased > 254)  # noqa: PLR2004  (the largest exponent)
    return torch.where(wrong, 255, biased).to(torch.uint8).view(torch.float8_e8m0fnu)


def to_float4(x: Any) -> Any:
    """Return the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 with the sign of `x`; of two, the even one."""
    import torch

    size = x.float().abs()
    # The grid is finer below 2 and coarser from 4 on.
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))  # noqa: PLR2004
    rounded = (torch.round(size / step) * step).clamp(max=6.0)
    # The type has no not-a-number: the largest stands for it, as in the standard's reference.
    rounded = torch.where(torch.isnan(size), 6.0, rounded)
    return torch.copysign(rounded, x.float()).to(torch.float8_e4m3fn)


def to_narrow(x: Any, bits: int, signed: bool) -> Any:
    """Return the lowest bits of the truncated numbers, in a type of 8 bits."""
    import torch

    whole = x.to(torch.int32) & (2**bits - 1)
    if not signed:
        return whole.to(torch.uint8)
    half = 2 ** (bits - 1)
    return ((whole ^ half) - half).to(torch.int8)


@register
class BitCast(Passing):
    """The same bits, read as another type of their width."""

    op_type = "BitCast"
    versions = (26,)
    attributes = frozenset({"to"})

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """View the tensor."""
        kind = torch_type(ir.DataType(integer(node, "to", 1)))
        return scope.call(viewed, scope.tensor(node.inputs[0]), kind)


def viewed(x: Any, kind: Any) -> Any:
    """Return the bits of `x` as another type; it has no gradient."""
    return x.detach().contiguous().view(kind)
