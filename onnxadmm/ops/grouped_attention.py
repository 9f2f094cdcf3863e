"""Attention whose queries share keys and values in groups, with a cache: what exporters of language models leave."""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import onnx_ir as ir

from onnxadmm.errors import UnsupportedError
from onnxadmm.ops._attributes import integer, number
from onnxadmm.ops._base import BuildScope, Operator, Shapes, describe, optional_input, register
from onnxadmm.ops.attention import Style, attend, rotate
from onnxadmm.ops.fused import MICROSOFT

_FIRST_UNKNOWN = 11


class Grouping(NamedTuple):
    """The attributes of a node.

    Attributes:
        heads: Of queries.
        groups: Heads of keys and values.
        scale: Of the products; None for the inverse root of a head's size.
        softcap: Products stay within ± this; 0 for no bound.
        window: How many keys a query reads, its own position the last; -1 for all before it.
        rotary: Whether queries and keys are rotated by their position.
        interleaved: Whether rotated pairs are neighbours.
    """

    heads: int
    groups: int
    scale: float | None
    softcap: float
    window: int
    rotary: bool
    interleaved: bool


@register
class GroupQueryAttention(Operator):
    """Causal attention of queries [N, S, heads · D] to the keys of a cache and of the present steps."""

    domain, op_type, versions = MICROSOFT, "GroupQueryAttention", (1,)
    attributes = frozenset(
        {
            *("num_heads", "kv_num_heads", "scale", "softcap", "local_window_size"),
            *("do_rotary", "rotary_interleaved", "smooth_softmax", "qk_output"),
        }
    )
    fixes = ": no rule for its cache and its groups"

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Call the function of this file.

        Raises:
            UnsupportedError: A softmax with a sink, a quantized cache, or the products as an output.
        """
        unknown = any(v is not None for v in node.inputs[_FIRST_UNKNOWN:])
        asked = any(integer(node, name, 0) > 0 for name in ("smooth_softmax", "qk_output"))
        if unknown or asked:
            raise UnsupportedError(
                f"{describe(node)}: a softmax with a sink, a quantized cache or products as an output can't be "
                "trained yet; compress without training"
            )
        grouping = Grouping(
            integer(node, "num_heads", 1),
            integer(node, "kv_num_heads", 1),
            number(node, "scale", 0.0) or None,
            number(node, "softcap", 0.0),
            integer(node, "local_window_size", -1),
            bool(integer(node, "do_rotary", 0)),
            bool(integer(node, "rotary_interleaved", 0)),
        )
        inputs = [scope.tensor(optional_input(node, port)) for port in range(_FIRST_UNKNOWN)]
        result = scope.call(attend_grouped, inputs, grouping)
        return tuple(scope.call(operator.getitem, result, k) for k in range(len(node.outputs)))

    def macs(self, node: ir.Node, shapes: Shapes) -> int:
        """Each query element meets every key, and each key's weight every value of its head."""
        out = shapes[node.outputs[0].name or ""]
        keys = shapes[node.outputs[1].name or ""][2] if len(node.outputs) > 1 else out[1]
        return 2 * math.prod(out) * keys


def attend_grouped(inputs: list[Any], grouping: Grouping) -> tuple[Any, Any, Any]:
    """Return the result [N, S, heads · D] and the cache of keys and of values [N, groups, T, D].

    Args:
        inputs: Queries (with keys and values behind them, where those are None), keys and values [N, S, groups · D],
            the cache of both [N, groups, P, D] or None, [N] how many keys count but one, how many there are in all,
            cosines and sines [positions, D / 2], positions [N, S], addends [N, heads, S, T]; the last four may
            be None.
        grouping: What is done.
    """
    import torch

    query, key, value, past_key, past_value, last, total, cosine, sine, positions, bias = inputs
    if key is None:
        size = query.shape[-1] // (grouping.heads + 2 * grouping.groups)
        sizes = [n * size for n in (grouping.heads, grouping.groups, grouping.groups)]
        query, key, value = query.split(sizes, -1)
    steps, whole = query.shape[1], int(total)
    q, k, v = (
        t.unflatten(-1, (n, -1)).transpose(1, 2)
        for t, n in zip((query, key, value), (grouping.heads, *[grouping.groups] * 2), strict=True)
    )
    places = torch.arange(steps, device=q.device)
    # All of a first prompt is new, whatever pads it.
    before = torch.zeros_like(last) if steps == whole else last + 1 - steps
    where = before.reshape(-1, 1).long() + places
    if grouping.rotary:
        angles = where if positions is None else positions
        size = 2 * cosine.shape[-1]
        options = {"heads": 0, "size": size, "interleaved": grouping.interleaved}
        q, k = (rotate(t, cosine, sine, angles, **options) for t in (q, k))
    keys = _cached(past_key, k, where, whole)
    values = _cached(past_value, v, where, whole)
    ahead = torch.arange(keys.shape[2], device=q.device) - where[:, None, :, None]
    allowed = ahead <= 0
    if grouping.window >= 0:
        allowed = allowed & (-ahead < grouping.window)
    mask = allowed
    if bias is not None:
        missing = keys.shape[2] - bias.shape[-1]
        mask = torch.nn.functional.pad(bias, (0, missing)).masked_fill(~allowed, -math.inf)
    heads = (grouping.heads, grouping.groups)
    style = Style(heads, grouping.scale, grouping.softcap)
    result, *_ = attend(q, keys, values, mask, style=style)
    return result.transpose(1, 2).flatten(2), keys, values


def _cached(past: Any, new: Any, where: Any, whole: int) -> Any:
    """Return what the cache holds of the steps before the new ones, with the new ones behind them.

    Args:
        past: [N, groups, P, D] or None.
        new: [N, groups, S, D].
        where: [N, S], the places of the new ones.
        whole: How many places there must be.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812

    if past is None:
        past = new[:, :, :0]
    cache = F.pad(past, (0, 0, 0, max(whole - past.shape[2], 0)))
    old = torch.arange(cache.shape[2], device=new.device) < where[:, :1]
    index = where[:, None, :, None].expand_as(new)
    return (cache * old[:, None, :, None]).scatter(2, index, new)
