"""Attention as one operator, and the rotation of its queries and keys."""

from __future__ import annotations

import math
import operator
from typing import Any, ClassVar, NamedTuple

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, number
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
from onnxadmm.ops.heads import (
    SPLIT_RANK,
    attention_labels,
    hold_rotation,
    hold_scale,
    rotation_labels,
)

_MASK = 3
_PRODUCTS = 3


class Style(NamedTuple):
    """What attention does beside its products.

    Attributes:
        heads: Of queries and of keys, where they aren't an axis.
        scale: Of the products; None is 1 / sqrt(D).
        softcap: Bound of the products by tanh; 0 is none.
        causal: Whether a query reads the keys up to its own place only.
        window: How many keys before and behind its own place a query reads; -1 is all.
        shown: Which products are handed out: 0 as they are, 1 capped, 2 masked too, 3 as shares.
    """

    heads: tuple[int, int] = (0, 0)
    scale: float | None = None
    softcap: float = 0.0
    causal: bool = False
    window: tuple[int, int] = (-1, -1)
    shown: int | None = None


@register
class Attention(Operator):
    """softmax(scale · Q Kᵀ + mask) V by head; Q, K, V are [N, heads, S, D] or [N, S, heads · D].

    Inputs 4 and 5 are keys and values of earlier steps, input 6 is how many of the keys of each sample count; the
    outputs are the result, all keys, all values, and the products.
    """

    op_type = "Attention"
    versions: ClassVar[tuple[int, ...]] = (23, 24)
    attributes = frozenset(
        {
            "is_causal",
            "kv_num_heads",
            "q_num_heads",
            "qk_matmul_output_mode",
            "scale",
            "softcap",
            "softmax_precision",
        }
    )

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Queries meet keys, values pass on; a cache of keys has their channels."""
        q, k, v = node.inputs[:3]
        assert q is not None
        assert k is not None
        assert v is not None
        past = [*node.inputs[_MASK + 1 : _MASK + 3], None, None][:2]
        beside = [*node.inputs[_MASK : _MASK + 1], *node.inputs[_MASK + 3 :]]
        found = attention_labels(node, scope, (q, k, v), self._heads(node), beside)
        results = [*node.outputs[1:], None, None, None][:3]
        for value, result, labels in zip(past, results, found, strict=False):
            if value is not None:
                *stiff, last = scope.axes(value)
                scope.unite(labels, last, f"meets {describe(node)}")
                for axis in stiff:
                    scope.fix(axis, f"{describe(node)} runs over all of these")
            if result is not None and result.name:
                blank = [unlabelled(n) for n in scope.shape(result)]
                scope.assign(result, [*blank[:-1], labels])
        products = results[2]
        if products is not None and products.name:
            scope.assign(products, [unlabelled(n) for n in scope.shape(products)])

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Keep the scale of the whole heads."""
        q = node.inputs[0]
        assert q is not None
        rank = len(scope.shape(q))
        heads = 1 if rank == SPLIT_RANK else self._heads(node)[0]
        size, left = scope.shape(q)[-1] // heads, scope.kept(q, rank - 1) // heads
        hold_scale(node, size, left)

    def _heads(self, node: ir.Node) -> tuple[int, int]:
        return integer(node, "q_num_heads", 1), integer(node, "kv_num_heads", 1)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call a function of this file that calls torch's scaled_dot_product_attention where that does.

        Raises:
            UnsupportedError: A softmax in another precision than float.
        """
        precision = integer(node, "softmax_precision", ir.DataType.FLOAT)
        if precision != ir.DataType.FLOAT:
            raise UnsupportedError(
                f"{describe(node)}: softmax_precision other than float can't be trained yet; compress without "
                "training"
            )
        outputs = node.outputs
        shown = len(outputs) > _PRODUCTS and bool(outputs[_PRODUCTS].name)
        style = Style(
            (integer(node, "q_num_heads", 0), integer(node, "kv_num_heads", 0)),
            number(node, "scale", 0.0) or None,
            number(node, "softcap", 0.0),
            bool(integer(node, "is_causal", 0)),
            (integer(node, "left_window_size", -1), integer(node, "right_window_size", -1)),
            integer(node, "qk_matmul_output_mode", 0) if shown else None,
        )
        inputs = [scope.tensor(optional_input(node, port)) for port in range(7)]
        past, counts = (inputs[4], inputs[5]), inputs[6]
        result = scope.call(attend, *inputs[:4], past=past, counts=counts, style=style)
        return tuple(scope.call(operator.getitem, result, k) for k in range(len(outputs)))

    def macs(self, node: ir.Node, shapes: Shapes) -> int:
        """Each query element meets every key, and each key's weight every value of its head."""
        q, k, _ = (shapes[(v.name if v is not None else "") or ""] for v in node.inputs[:3])
        out = shapes[node.outputs[0].name or ""]
        past = optional_input(node, 4)
        keys = k[-2] + (shapes[past.name or ""][2] if past is not None else 0)
        return (math.prod(q) + math.prod(out)) * keys


@register
class WindowedAttention(Attention):
    """Attention whose queries may read their neighbourhood only."""

    versions: ClassVar[tuple[int, ...]] = (25,)
    attributes = Attention.attributes | {"left_window_size", "right_window_size"}


def attend(
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    *,
    style: Style,
    past: tuple[Any, Any] = (None, None),
    counts: Any = None,
) -> tuple[Any, Any, Any, Any]:
    """Compute attention as the ONNX standard defines it.

    Args:
        q: [N, heads, S, D] or [N, S, heads · D].
        k: Keys, of as many heads or a divisor of them.
        v: Values.
        mask: Truth values or addends, broadcast to [N, heads, S, keys], or None; one that is too short forbids
            the rest.
        style: What is done beside the products.
        past: Keys and values [N, heads, P, D] of earlier steps, or None.
        counts: [N], how many keys count, or None.

    Returns:
        The result, all keys, all values, and the products where they are asked for.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812

    joined = q.ndim < SPLIT_RANK
    if joined:
        heads = style.heads
        q, k, v = (
            t.unflatten(-1, (n, -1)).transpose(1, 2)
            for t, n in zip((q, k, v), (heads[0], heads[1], heads[1]), strict=True)
        )
    offset: Any = 0
    if past[0] is not None:
        offset = past[0].shape[2]
        k, v = (torch.cat(pair, 2) for pair in zip(past, (k, v), strict=True))
    elif counts is not None:
        offset = counts.reshape(-1, 1, 1, 1) - q.shape[2]
    keys, values = k, v
    times = q.shape[1] // k.shape[1]
    if times > 1:
        k, v = (torch.repeat_interleave(t, times, dim=1) for t in (k, v))
    plain = style.causal and mask is None and past[0] is None and counts is None
    plain = plain and style.window == (-1, -1)
    if not plain:
        mask = _narrow(q, k, mask, style, offset=offset, counts=counts)
    products = None
    if style.softcap or style.shown is not None:
        result, products = _attend_openly(q, k, v, mask, style=style, causal=plain)
    else:
        result = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=plain, scale=style.scale
        )
    return result.transpose(1, 2).flatten(2) if joined else result, keys, values, products


def _narrow(q: Any, k: Any, mask: Any, style: Style, *, offset: Any = 0, counts: Any = None) -> Any:
    """Return the mask with the keys forbidden that a query may not read; None where all may be read."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    keys = k.shape[2]
    if mask is not None and 1 < mask.shape[-1] < keys:
        nothing: Any = False if mask.dtype == torch.bool else -math.inf
        mask = F.pad(mask, (0, keys - mask.shape[-1]), value=nothing)
    places = torch.arange(keys, device=q.device)
    ahead = places - torch.arange(q.shape[2], device=q.device)[:, None] - offset
    rules = []
    if style.causal:
        rules.append(ahead <= 0)
    if style.window[0] >= 0:
        rules.append(-ahead <= style.window[0])
    if style.window[1] >= 0:
        rules.append(ahead <= style.window[1])
    if counts is not None:
        rules.append(places < counts.reshape(-1, 1, 1, 1))
    for allowed in rules:
        if mask is None:
            mask = allowed
        elif mask.dtype == torch.bool:
            mask = mask & allowed
        else:
            mask = torch.where(allowed, mask, -math.inf)
    return mask


def _attend_openly(
    q: Any, k: Any, v: Any, mask: Any, *, style: Style, causal: bool
) -> tuple[Any, Any]:
    """Return attention and its products, which torch's own function doesn't hand out."""
    import torch

    scale = style.scale if style.scale is not None else 1 / math.sqrt(q.shape[-1])
    stages = [q @ k.mT * scale]
    capped = style.softcap * torch.tanh(stages[0] / style.softcap) if style.softcap else stages[0]
    if causal:
        mask = _narrow(q, k, None, style)
    masked = capped
    if mask is not None and mask.dtype == torch.bool:
        masked = capped.masked_fill(~mask, -math.inf)
    elif mask is not None:
        masked = capped + mask
    wide = masked.float() if masked.element_size() < 4 else masked  # noqa: PLR2004  (bytes of float32)
    # A query that may read nothing reads zero.
    empty = torch.isneginf(masked).all(-1, keepdim=True)
    shares = torch.softmax(wide.masked_fill(empty, 0.0), -1).masked_fill(empty, 0.0).to(q.dtype)
    stages += [capped, masked, shares]
    return shares @ v, None if style.shown is None else stages[style.shown]


@register
class RotaryEmbedding(Operator):
    """Rotates pairs of a head's elements by angles that depend on the position."""

    op_type = "RotaryEmbedding"
    versions = (23,)
    attributes = frozenset({"interleaved", "num_heads", "rotary_embedding_dim"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Couple pairs of elements with their angle, in all heads."""
        x, cosine, sine = node.inputs[:3]
        assert x is not None
        assert cosine is not None
        assert sine is not None
        rotation_labels(
            node,
            scope,
            x=x,
            tables=(cosine, sine),
            heads=integer(node, "num_heads", 1),
            size=integer(node, "rotary_embedding_dim", 0),
            interleaved=bool(integer(node, "interleaved", 0)),
        )

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Write how many elements are still rotated."""
        assert node.inputs[0] is not None
        hold_rotation(node, scope, node.inputs[0], integer(node, "num_heads", 1))

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call the rotation of this file."""
        x, cosine, sine = (scope.tensor(v) for v in node.inputs[:3])
        positions = scope.tensor(optional_input(node, 3))
        return scope.call(
            rotate,
            x,
            cosine,
            sine,
            positions,
            heads=integer(node, "num_heads", 0),
            size=integer(node, "rotary_embedding_dim", 0),
            interleaved=bool(integer(node, "interleaved", 0)),
        )


def rotate(
    x: Any, cosine: Any, sine: Any, positions: Any, *, heads: int, size: int, interleaved: bool
) -> Any:
    """Rotate the first `size` elements of every head as the ONNX standard defines it.

    Args:
        x: [N, heads, S, D] or [N, S, heads · D].
        cosine: [positions, size / 2] with `positions`, else [N, S, size / 2].
        sine: Like the cosine.
        positions: [N, S] or None.
        heads: Where they aren't an axis of x.
        size: Elements to rotate; 0 is all D.
        interleaved: Whether pairs are neighbours rather than half a head apart.
    """
    import torch

    joined = x.ndim < SPLIT_RANK
    data = x.unflatten(-1, (heads, -1)) if joined else x.transpose(1, 2)
    size = size or data.shape[-1]
    turned, rest = data[..., :size], data[..., size:]
    if positions is not None:
        cosine, sine = cosine[positions], sine[positions]
    cosine, sine = cosine.unsqueeze(2), sine.unsqueeze(2)
    first, second = (
        (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, dim=-1)
    )
    real, imaginary = cosine * first - sine * second, sine * first + cosine * second
    if interleaved:
        turned = torch.stack((real, imaginary), -1).flatten(-2)
    else:
        turned = torch.cat((real, imaginary), -1)
    result = torch.cat((turned, rest), -1)
    return result.flatten(2) if joined else result.transpose(1, 2)
