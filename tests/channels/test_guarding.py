"""A removed channel that would be infinite, or no number, reaches nothing."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Builder
from test_cutting import cut_half

from onnxadmm.errors import UnsupportedError


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("both", [False, True])
def test_a_channel_that_is_not_finite_at_zero_is_cut_and_proven(both, opset):
    b = divided(both, opset)
    classes, cut = cut_half(b.model())
    assert sorted(c.size for c in classes.values() if not c.fixed) == [6, 7, 8]
    assert [n.op_type for n in cut.graph] == [n.op_type for n in b.nodes]


def test_nodes_without_names_are_guarded_too():
    b = Builder(0, 3, 5)
    for _ in range(2):
        b.conv(8)
        b.batchnorm()
    b.head("flatten")
    model = b.model()
    for node in model.graph:
        node.name = None
    classes, _ = cut_half(model)
    assert [c.size for c in classes.values() if not c.fixed].count(8) == 2


def test_where_no_guard_exists_the_reason_is_told():
    with pytest.raises(UnsupportedError, match="opset 9"):
        cut_half(divided(False, 8).model())


def divided(both, opset):
    """Divide by a channel of at least 0.5, which is 0 once it is masked."""
    b = Builder(0, 3, 5, opset=opset)
    b.conv(8)
    half = b.constant(np.full((8, 1, 1), 0.5), np.float32)
    positive = b.node("Add", b.node("Abs", b.value), half)
    b.value = b.node("Div", b.value if both else "x0", positive)
    if not both:
        ones = b.constant(np.ones((1, 1, 5, 5)), np.float32)
        b.nodes[-1].input[0] = ones
    b.conv(6)
    b.head("flatten")
    return b
