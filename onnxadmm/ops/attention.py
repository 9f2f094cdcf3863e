"""Attention as one operator, and the rotation of its queries and keys."""

from __future__ import annotations

import math
from typing import Any

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


@register
class Attention(Operator):
    """softmax(scale · Q Kᵀ + mask) V by head; Q, K, V are [N, heads, S, D] or [N, S, heads · D]."""

    op_type = "Attention"
    versions = (23, 24, 25)
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
        """Call a function of this file that calls torch's scaled_dot_product_attention.

        Raises:
            UnsupportedError: A cache of keys, a soft cap beside a mask, or a mask that is too short.
        """
        inputs = [*node.inputs, *[None] * (_MASK + 1 - len(node.inputs))]
        mask = inputs[_MASK]
        causal, cap = bool(integer(node, "is_causal", 0)), number(node, "softcap", 0.0)
        precision = integer(node, "softmax_precision", ir.DataType.FLOAT)
        key = inputs[1]
        assert key is not None
        refused = {
            "past keys": any(v is not None for v in inputs[_MASK + 1 :]),
            "a softcap beside a mask": cap != 0 and (causal or mask is not None),
            "softmax_precision other than float": precision != ir.DataType.FLOAT,
            "a mask shorter than the keys": mask is not None
            and scope.shape(mask)[-1] not in (1, scope.shape(key)[-2]),
        }
        for what, there in refused.items():
            if there:
                raise UnsupportedError(
                    f"{describe(node)}: {what} can't be trained yet; compress without training"
                )
        q, k, v = (scope.tensor(i) for i in inputs[:3])
        return scope.call(
            attend,
            q,
            k,
            v,
            scope.tensor(mask),
            heads=(integer(node, "q_num_heads", 0), integer(node, "kv_num_heads", 0)),
            scale=number(node, "scale", 0.0) or None,
            softcap=cap,
            causal=causal,
        )

    def macs(self, node: ir.Node, shapes: Shapes) -> int:
        """Each query element meets every key, and each key's weight every value of its head."""
        q, k, _ = (shapes[(v.name if v is not None else "") or ""] for v in node.inputs[:3])
        out = shapes[node.outputs[0].name or ""]
        return (math.prod(q) + math.prod(out)) * k[-2]


def attend(
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    *,
    heads: tuple[int, int],
    scale: float | None,
    softcap: float,
    causal: bool,
) -> Any:
    """Compute attention as the ONNX standard defines it.

    Args:
        q: [N, heads, S, D] or [N, S, heads · D].
        k: Keys, of as many heads or a divisor of them.
        v: Values.
        mask: Truth values or addends, broadcast to [N, heads, S, keys], or None.
        heads: Of queries and of keys, where they aren't an axis.
        scale: Of the products; None is 1 / sqrt(D).
        softcap: Bound of the products by tanh; 0 is none.
        causal: Whether query i reads keys up to i only.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812

    joined = q.ndim < SPLIT_RANK
    if joined:
        q, k, v = (
            t.unflatten(-1, (n, -1)).transpose(1, 2)
            for t, n in zip((q, k, v), (heads[0], heads[1], heads[1]), strict=True)
        )
    times = q.shape[1] // k.shape[1]
    if times > 1:
        k, v = (torch.repeat_interleave(t, times, dim=1) for t in (k, v))
    if softcap:
        products = q @ k.mT * (scale if scale is not None else 1 / math.sqrt(q.shape[-1]))
        result = torch.softmax(softcap * torch.tanh(products / softcap), -1) @ v
    else:
        if causal and mask is not None:
            early = q.new_ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
            mask = mask & early if mask.dtype == torch.bool else mask.masked_fill(~early, -math.inf)
        result = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and mask is None, scale=scale
        )
    return result.transpose(1, 2).flatten(2) if joined else result


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
