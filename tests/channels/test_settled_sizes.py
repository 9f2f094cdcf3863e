"""Shapes that a graph computes from its sizes: what no input changes is a number, what a batch may change isn't."""

from __future__ import annotations

import pytest
from graphs import Builder
from test_cutting import classes_of, cut_half


def test_a_width_over_a_number_of_heads_holds_nothing():
    b = Builder(0, 3, 6)
    b.conv(8)
    b.sized()
    b.conv(8)
    b.head("pool")
    classes, cut = cut_half(b.model())
    assert [c.reason for c in classes.values() if c.fixed and "graph output" not in c.reason] == []
    # The places of a head of queries and keys, and of values, beside both widths and the head's layer.
    assert sorted(c.size for c in classes.values() if not c.fixed) == [4, 4, 7, 8, 8]
    assert "Where" not in {n.op_type for n in cut.graph}


@pytest.mark.parametrize("opset", [8, 17])
def test_what_arithmetic_comes_to_is_written_down_in_a_shape_that_is_no_concat(opset):
    b = Builder(0, 4, 4, opset=opset)
    b.conv(8)
    x = b.tokens()
    made = b.node("MatMul", x, b.weight(8, 4))
    half = b.node("Div", b.node("Shape", x), b.constant([1, 1, 2]))
    b.channels = 4
    b.from_tokens(b.node("Relu", b.node("Reshape", made, half)))
    b.conv(5)
    b.head("flatten")
    classes, cut = cut_half(b.model())
    assert sorted(c.size for c in classes.values() if not c.fixed) == [4, 5, 7, 8]
    # Half of eight channels is four, and two of four stay.
    assert {"Where", "Mul"} & {n.op_type for n in cut.graph} == {"Where" if opset > 8 else "Mul"}


def test_a_batch_that_is_merged_into_channels_is_no_number():
    b = Builder(0, 3, 4)
    b.conv(8)
    rows = b.node("Reshape", b.value, b.constant([-1, 16]))
    mixed = b.node("MatMul", rows, b.weight(16, 16))
    count = b.node("Gather", b.node("Shape", mixed), b.constant([0]))
    target = b.node("Concat", count, b.constant([4, 4]), axis=0)
    b.value = b.node("Reshape", b.node("Reshape", mixed, target), b.constant([-1, 8, 4, 4]))
    b.conv(4)
    b.head("flatten")
    # The probe ran one sample, the proof three: a number that was written down would be wrong.
    _, classes = classes_of(b.model())[1:]
    cut_half(b.model())
    assert not classes["conv3"].fixed


@pytest.mark.parametrize("how", ["Mul", "ReduceProd", "Mod"])
def test_an_axis_without_channels_that_no_input_changes_is_a_number_too(how):
    """Directions of an LSTM, positions of an image: what merges with the channels is known."""
    b = Builder(0, 3, 4)
    made = b.node("MatMul", b.tokens(), b.weight(3, 8))
    shape = b.node("Shape", made)
    batch, last = b.constant([0]), b.constant([3])
    if how == "Mod":  # torch's bounds of the axes before and behind one that it splits
        last = b.node("Reshape", b.node("Mod", b.constant(13), b.constant(5)), b.constant([-1]))
    if how == "ReduceProd":
        rest = b.node("ReduceProd", b.node("Slice", shape, b.constant([1]), last), keepdims=1)
    else:
        positions = b.node("Slice", shape, b.constant([1]), b.constant([2]))
        rest = b.node("Mul", positions, b.node("Slice", shape, b.constant([2]), last))
    lead = b.node("Slice", shape, batch, b.constant([1]))
    flat = b.node("Reshape", made, b.node("Concat", lead, rest, axis=0))
    b.value = b.node("MatMul", flat, b.weight(16 * 8, 5))
    b.channels, b.size = 5, 1
    b.head("flatten")
    classes, _ = cut_half(b.model())
    assert sorted(c.size for c in classes.values() if not c.fixed) == [5, 7, 8]


@pytest.mark.parametrize("computed", ["batch", "batch and channels"])
def test_a_batch_that_arithmetic_merges_into_channels_is_what_the_rest_comes_to(computed):
    """view(B * C * rows, 2, ...), as mobile transformers cut an image into patches: one element isn't followed."""
    b = Builder(0, 3, 4)
    b.conv(8)
    shape = b.node("Shape", b.value)
    batch, channels = (b.node("Gather", shape, b.constant([axis])) for axis in (0, 1))
    rows = b.node("Mul", batch, channels if computed != "batch" else b.constant([8]))
    rows = b.node("Mul", rows, b.constant([2]))
    x = b.node("Reshape", b.value, b.node("Concat", rows, b.constant([2, 2, 2]), axis=0))
    x = b.node("Transpose", x, perm=[0, 2, 1, 3])
    x = b.node("Reshape", x, b.node("Concat", batch, channels, b.constant([4, 4]), axis=0))
    b.value = b.node("Relu", x)
    b.conv(4)
    b.head("flatten")
    classes, cut = cut_half(b.model())
    assert sorted(c.size for c in classes.values() if not c.fixed) == [4, 7, 8]
    first = next(n for n in cut.graph if n.op_type == "Conv")
    assert tuple(first.inputs[1].shape) == (4, 3, 3, 3)


def test_two_numbers_that_are_not_followed_hold_what_they_measure():
    b = Builder(0, 3, 4)
    b.conv(8)
    batch = b.node("Gather", b.node("Shape", b.value), b.constant([0]))
    more, less = b.node("Mul", batch, b.constant([8])), b.node("Div", b.constant([4]), batch)
    x = b.node("Reshape", b.value, b.node("Concat", more, less, b.constant([4, -1]), axis=0))
    b.value = b.node("Reshape", x, b.constant([-1, 8, 4, 4]))
    b.conv(4)
    b.head("flatten")
    _, classes = classes_of(b.model())[1:]
    assert "computes the size of this axis at run time" in (classes["conv3"].reason or "")
