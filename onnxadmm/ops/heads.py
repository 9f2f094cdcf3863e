"""How channels pass through operators that know attention heads.

All heads are of one size: an element of a head can go where the elements at its place in every other head go as
well. Queries and keys meet element by element, values pass on. Whole heads can go where they are an axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxadmm.ops._attributes import number
from onnxadmm.ops._base import CutScope, Labels, LabelScope, describe

SPLIT_RANK = 4
"""Rank of queries whose heads are an axis: [N, heads, S, D]. Joined they are [N, S, heads · D]."""


def one_head(scope: LabelScope, node: ir.Node, tensors: Sequence[tuple[Labels, int]]) -> Labels:
    """Couple the labels at one place of all heads of all tensors.

    Args:
        scope: Where labels are united.
        node: What reads them.
        tensors: The labels of the axis that holds the heads' elements, and how many heads it holds.

    Returns:
        The labels of one head.
    """
    rows = [row for labels, heads in tensors for row in labels.reshape(heads, -1)]
    for row in rows[1:]:
        scope.unite(rows[0], row, f"{describe(node)} has heads of one size")
    return rows[0]


def attention_labels(
    node: ir.Node,
    scope: LabelScope,
    operands: Sequence[ir.Value],
    heads: tuple[int, int],
    beside: Sequence[ir.Value | None],
) -> tuple[Labels, Labels]:
    """Couple queries, keys and values, give the first output its labels, and return those of a head.

    Args:
        node: The operator; the reference runs it on what is live.
        scope: Where labels are united.
        operands: Queries, keys, values.
        heads: Of queries and of keys, where they aren't an axis.
        beside: Masks, biases and the like: nothing of them can go.

    Returns:
        The labels of a head's queries and keys, and of its values.
    """
    axes = [scope.axes(v) for v in operands]
    split = len(axes[0]) == SPLIT_RANK
    counts = (1, 1, 1) if split else (heads[0], heads[1], heads[1])
    last = [(a[-1], n) for a, n in zip(axes, counts, strict=True)]
    reads, values = one_head(scope, node, last[:2]), one_head(scope, node, last[2:])
    stiff = [labels for a in axes for labels in a[:-1]]
    shape = scope.shape(node.outputs[0])
    result = [np.zeros(n, np.int64) for n in shape]
    if split and len({len(a[1]) for a in axes}) == 1:
        whole = one_head(scope, node, [(a[1], 1) for a in axes])
        stiff = [labels for a in axes for labels in (a[0], a[2])]
        result[1] = whole
    result[-1] = np.tile(values, 1 if split else heads[0])
    for value in beside:
        stiff += scope.axes(value) if value is not None else []
    for labels in stiff:
        scope.fix(labels, f"{describe(node)} runs over all of these")
    if reads.any() or values.any() or result[1].any():
        scope.take_live(node)
    scope.assign(node.outputs[0], result)
    return reads, values


def hold_scale(node: ir.Node, size: int, left: int) -> None:
    """Write down the root of a head's size that scales the products, where elements of it go.

    Args:
        node: The operator, whose attribute `scale` may say another factor.
        size: Elements of a head before.
        left: Those that stay.
    """
    if left != size and not number(node, "scale", 0.0):
        node.attributes["scale"] = ir.AttrFloat32("scale", float(1 / np.sqrt(size)))


def rotation_labels(
    node: ir.Node,
    scope: LabelScope,
    *,
    x: ir.Value,
    tables: Sequence[ir.Value],
    heads: int,
    size: int,
    interleaved: bool,
) -> None:
    """Couple what a rotation turns together: the two elements of a pair, in all heads, with their angle.

    Args:
        node: The operator.
        scope: Where labels are united.
        x: [N, heads, S, D] or [N, S, heads · D].
        tables: Cosines and sines; their last axis has an entry a pair.
        heads: Where they aren't an axis of x.
        size: Elements to rotate; 0 is all D.
        interleaved: Whether pairs are neighbours rather than half a head apart.
    """
    axes = list(scope.axes(x))
    joined = len(axes) < SPLIT_RANK
    head = one_head(scope, node, [(axes[-1], heads if joined else 1)])
    turned = head[: size or len(head)]
    half = len(turned) // 2
    pairs = (turned[0::2], turned[1::2]) if interleaved else (turned[:half], turned[half:])
    reason = f"{describe(node)} turns pairs of them"
    scope.unite(*pairs, reason)
    for labels in (axes[0], axes[-2]):
        scope.fix(labels, f"a position of {describe(node)}")
    for table in tables:
        *stiff, angles = scope.axes(table)
        scope.unite(pairs[0], angles, reason)
        for labels in stiff:
            scope.fix(labels, f"a position of {describe(node)}")
    scope.assign(node.outputs[0], axes)


def hold_rotation(node: ir.Node, scope: CutScope, x: ir.Value, heads: int) -> None:
    """Write how many elements of a head are rotated after some went."""
    given = node.attributes.get("rotary_embedding_dim")
    size = given.as_int() if given is not None else 0
    if not size:
        return
    alive = scope.alive(x, len(scope.shape(x)) - 1)
    head = alive[: len(alive) // heads] if len(scope.shape(x)) < SPLIT_RANK else alive
    left = int(head[:size].sum())
    node.attributes["rotary_embedding_dim"] = ir.AttrInt64("rotary_embedding_dim", left)
