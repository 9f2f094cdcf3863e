"""ONNX Runtime's own attention operators, as its optimizer and its exporters write them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, integers, number
from onnxadmm.ops._base import (
    BuildScope,
    CutScope,
    LabelScope,
    Operator,
    Shapes,
    describe,
    fix_all,
    optional_input,
    register,
)
from onnxadmm.ops.attention import Style, attend, rotate
from onnxadmm.ops.fused import MICROSOFT
from onnxadmm.ops.heads import (
    SPLIT_RANK,
    attention_labels,
    hold_rotation,
    hold_scale,
    one_head,
    rotation_labels,
)

_JOINED_RANK = 3


def _refuse(node: ir.Node, refused: dict[str, bool]) -> None:
    for what, there in refused.items():
        if there:
            raise UnsupportedError(
                f"{describe(node)}: {what} can't be trained yet; compress without training"
            )


@register
class FusedAttention(Operator):
    """Attention of x [N, S, W] to itself; weights [W, queries + keys + values] and a bias make all three."""

    domain, op_type, versions = MICROSOFT, "Attention", (1,)
    attributes = frozenset(
        {"mask_filter_value", "num_heads", "qkv_hidden_sizes", "scale", "unidirectional"}
    )
    weight_ports = (1, 2)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """The weights' columns are queries, keys and values: the first two meet, the last pass on."""
        past = [optional_input(node, 4), *node.outputs[1:]]
        if integer(node, "do_rotary", 0) or any(v is not None and v.name for v in past):
            fix_all(node, scope, f"{describe(node)}: no rule for its cache and rotation")
            return
        x, w = node.inputs[:2]
        assert x is not None
        assert w is not None
        heads = integer(node, "num_heads", 1)
        *stiff, width = scope.axes(x)
        rows, columns = scope.axes(w)
        scope.unite(width, rows, f"meets {describe(node)}")
        bias = optional_input(node, 2)
        if bias is not None:
            scope.unite(columns, scope.axes(bias)[0], f"meets {describe(node)}")
        bounds = np.cumsum(self._sizes(node, len(columns)))
        q, k, v = np.split(columns, bounds[:2])
        one_head(scope, node, [(q, heads), (k, heads)])
        values = one_head(scope, node, [(v, heads)])
        beside = [optional_input(node, port) for port in (3, 5)]
        stiff += [labels for value in beside if value is not None for labels in scope.axes(value)]
        for labels in stiff:
            scope.fix(labels, f"{describe(node)} runs over all of these")
        scope.produce(node, columns)
        scope.take_live(node)
        blank = [np.zeros(n, np.int64) for n in scope.shape(node.outputs[0])]
        scope.assign(node.outputs[0], [*blank[:-1], np.tile(values, heads)])

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Write the sizes of queries, keys and values where they aren't thirds, and keep the scale."""
        w = node.inputs[1]
        assert w is not None
        whole = self._sizes(node, scope.shape(w)[1])
        parts = np.split(scope.alive(w, 1), np.cumsum(whole)[:2])
        left = [int(part.sum()) for part in parts]
        if left == whole:
            return
        if len(set(left)) > 1 or "qkv_hidden_sizes" in node.attributes:
            node.attributes["qkv_hidden_sizes"] = ir.AttrInt64s("qkv_hidden_sizes", left)
        heads = integer(node, "num_heads", 1)
        hold_scale(node, whole[0] // heads, left[0] // heads)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Multiply, split, and call the function of Attention.

        Raises:
            UnsupportedError: A cache, or another form of mask.
        """
        import operator

        import torch
        import torch.nn.functional as F  # noqa: N812

        past = any(optional_input(node, port) is not None for port in (4, 6))
        _refuse(node, {"a cache": past or len(node.outputs) > 1})
        x, w, b = (scope.tensor(optional_input(node, port)) for port in (0, 1, 2))
        all_three = scope.call(F.linear, x, scope.call(torch.t, w), b)
        weight = node.inputs[1]
        assert weight is not None
        sizes = self._sizes(node, scope.shape(weight)[1])
        parts = scope.call(torch.split, all_three, sizes, dim=-1)
        tensors = [scope.call(operator.getitem, parts, i) for i in range(3)]
        return _attention(node, scope, tensors, (3, 5))

    def macs(self, node: ir.Node, shapes: Shapes) -> int:
        """The three products with the weights, and what Attention costs."""
        x, w = (shapes[(v.name if v is not None else "") or ""] for v in node.inputs[:2])
        reads = self._sizes(node, w[1])
        return math.prod(x[:2]) * (math.prod(w) + x[1] * (reads[0] + reads[2]))

    def _sizes(self, node: ir.Node, columns: int) -> list[int]:
        given = list(integers(node, "qkv_hidden_sizes", ()))
        return given or [columns // 3] * 3


def _attention(node: ir.Node, scope: BuildScope, tensors: list[Any], ports: tuple[int, int]) -> Any:
    """Call the function of Attention on queries, keys and values.

    Args:
        node: Names heads and scale.
        scope: Where calls are added.
        tensors: Queries, keys and values.
        ports: The inputs that hold a mask of integers, and addends.
    """
    import operator

    heads = integer(node, "num_heads", 1)
    style = Style(
        (heads, heads),
        number(node, "scale", 0.0) or None,
        causal=bool(integer(node, "unidirectional", 0)),
    )
    value, added = (optional_input(node, port) for port in ports)
    mask = scope.tensor(added)
    if value is not None:
        _refuse(node, {"a mask of this form": scope.rank(value) not in (1, 2, 3)})
        forbidden = number(node, "mask_filter_value", -10000.0)
        addends = scope.call(mask_addends, scope.tensor(value), tensors[1], forbidden)
        mask = addends if added is None else scope.call(operator.add, addends, mask)
    return scope.call(operator.getitem, scope.call(attend, *tensors, mask, style=style), 0)


def mask_addends(mask: Any, keys: Any, forbidden: float) -> Any:
    """Return addends, broadcast to [N, heads, S, keys].

    Args:
        mask: [N, keys] or [N, S, keys] with 0 where nothing may be read, or [N], how many keys may be read.
        keys: [N, keys, D].
        forbidden: The addend of what may not be read.
    """
    import torch

    if mask.dim() == 1:
        mask = torch.arange(keys.shape[1], device=keys.device) < mask[:, None]
    mask = mask.unsqueeze(1) if mask.dim() == 3 else mask[:, None, None]  # noqa: PLR2004
    return torch.where(mask > 0, 0.0, forbidden).to(keys.dtype)


@register
class MultiHeadAttention(Operator):
    """Attention of queries, keys and values [N, S, heads · D], with one bias for all three."""

    domain, op_type, versions = MICROSOFT, "MultiHeadAttention", (1,)
    attributes = frozenset({"mask_filter_value", "num_heads", "scale", "unidirectional"})
    weight_ports = (3,)

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Queries meet keys, values pass on; the bias has the channels of all three."""
        operands = [v for v in node.inputs[:3] if v is not None]
        later = [*(optional_input(node, port) for port in range(6, 10)), *node.outputs[1:]]
        packed = len(operands) < 3 or any(len(scope.axes(v)) != _JOINED_RANK for v in operands)  # noqa: PLR2004
        if packed or any(v is not None and v.name for v in later):
            fix_all(node, scope, f"{describe(node)}: no rule for packed tensors and its cache")
            return
        heads, bias = integer(node, "num_heads", 1), optional_input(node, 3)
        if bias is not None:
            joined = np.concatenate([scope.axes(v)[-1] for v in operands])
            scope.unite(joined, scope.axes(bias)[0], f"meets {describe(node)}")
        beside = [optional_input(node, port) for port in (4, 5)]
        attention_labels(node, scope, operands, (heads, heads), beside)

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Keep the scale of the whole heads."""
        q = node.inputs[0]
        heads = integer(node, "num_heads", 1)
        if q is not None and len(scope.shape(q)) == _JOINED_RANK:
            hold_scale(node, scope.shape(q)[-1] // heads, scope.kept(q, 2) // heads)

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Add the bias and call the function of Attention.

        Raises:
            UnsupportedError: Packed tensors, a cache, or another form of mask.
        """
        import operator

        import torch

        q, k, v = (optional_input(node, port) for port in range(3))
        packed = any(t is None or scope.rank(t) != _JOINED_RANK for t in (q, k, v))
        past = any(optional_input(node, port) is not None for port in range(6, 10))
        _refuse(node, {"packed tensors": packed, "a cache": past or len(node.outputs) > 1})
        tensors = [scope.tensor(t) for t in (q, k, v)]
        bias = scope.tensor(optional_input(node, 3))
        if bias is not None:
            sizes = [scope.shape(t)[-1] for t in (q, k, v) if t is not None]
            parts = scope.call(torch.split, bias, sizes)
            tensors = [
                scope.call(torch.add, t, scope.call(operator.getitem, parts, i))
                for i, t in enumerate(tensors)
            ]
        return _attention(node, scope, tensors, (4, 5))

    def macs(self, node: ir.Node, shapes: Shapes) -> int:
        """Each query element meets every key, and each key's weight every value."""
        q, k = (shapes[(v.name if v is not None else "") or ""] for v in node.inputs[:2])
        out = shapes[node.outputs[0].name or ""]
        return (math.prod(q) + math.prod(out)) * k[1]


@register
class FusedRotaryEmbedding(Operator):
    """RotaryEmbedding with the positions before tables of all of them."""

    domain, op_type, versions = MICROSOFT, "RotaryEmbedding", (1,)
    attributes = frozenset({"interleaved", "num_heads", "rotary_embedding_dim"})

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Couple pairs of elements with their angle, in all heads."""
        x, _, cosine, sine = node.inputs[:4]
        assert x is not None
        assert cosine is not None
        assert sine is not None
        rotation_labels(
            node,
            scope,
            x=x,
            tables=(cosine, sine),
            heads=self._heads(node, scope.shape(x), scope.shape(cosine)),
            size=integer(node, "rotary_embedding_dim", 0),
            interleaved=bool(integer(node, "interleaved", 0)),
        )

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Write how many elements are still rotated."""
        x, cosine = node.inputs[0], node.inputs[2]
        assert x is not None
        assert cosine is not None
        hold_rotation(node, scope, x, self._heads(node, scope.shape(x), scope.shape(cosine)))

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call the rotation of the standard's operator.

        Raises:
            UnsupportedError: A single offset in place of positions.
        """
        x, positions, cosine, sine = node.inputs[:4]
        assert x is not None
        assert positions is not None
        assert cosine is not None
        _refuse(node, {"one offset for all positions": scope.rank(positions) != 2})  # noqa: PLR2004
        tensors = [scope.tensor(v) for v in (x, cosine, sine, positions)]
        return scope.call(
            rotate,
            *tensors,
            heads=self._heads(node, scope.shape(x), scope.shape(cosine)),
            size=integer(node, "rotary_embedding_dim", 0),
            interleaved=bool(integer(node, "interleaved", 0)),
        )

    def _heads(self, node: ir.Node, x: tuple[int, ...], cosine: tuple[int, ...]) -> int:
        """Return the number of heads that the last axis of x holds."""
        if len(x) == SPLIT_RANK:
            return 1
        return integer(node, "num_heads", 0) or max(1, x[-1] // (2 * cosine[-1]))
