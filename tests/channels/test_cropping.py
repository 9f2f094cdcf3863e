"""Kernel positions that are empty over a whole layer go, and the model computes the same."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cutting import classes_of, feeds

from onnxadmm.bench import open_session
from onnxadmm.channels import dead_labels
from onnxadmm.compact import compare_outputs, cut_channels, empty_positions, mask_channels, prove
from onnxadmm.graph import constant_of, model_bytes
from onnxadmm.graph.constants import set_constant


def network(op, kernel, group=1, size=6, **attributes):
    """One layer with a kernel between two others."""
    b = Builder(0, 2, size)
    b.conv(4, kernel=1)
    shape = (4, 6 // group) if op == "ConvTranspose" else (6, 4 // group)
    w = b.weight(*shape, *kernel, name="kernel")
    b.value = b.node(op, b.value, w, b.weight(6), group=group, **attributes)
    b.channels = 6
    b.conv(3, kernel=1)
    return b.model()


def empty(model, rows, columns):
    """Set whole rows and columns of the kernel to zero."""
    value = model.graph.initializers["kernel"]
    content = np.array(constant_of(value))
    content[:, :, list(rows)] = 0
    content[:, :, :, list(columns)] = 0
    set_constant(value, content)


def cropped(model, dead=()):
    seen, labels, _ = classes_of(model)
    gone = set(dead) | empty_positions(model, labels, seen, dead)
    return cut_channels(model, labels, seen, gone), gone, labels


def kernel_of(model):
    return tuple(model.graph.initializers["kernel"].shape)[2:]


@st.composite
def layers(draw):
    """Draw an operator, its kernel and its attributes."""
    op = draw(st.sampled_from(["Conv", "Conv", "ConvTranspose"]))
    kernel, strides = (draw(st.tuples(st.integers(1, n), st.integers(1, n))) for n in (5, 3))
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    more = {"strides": strides, "auto_pad": auto}
    if auto == "NOTSET":
        more = {"strides": strides, "pads": draw(st.tuples(*[st.integers(0, 4)] * 4))}
    if not auto.startswith("SAME"):
        # ONNX Runtime refuses SAME with some dilations.
        more["dilations"] = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    if draw(st.booleans()):
        more["kernel_shape"] = kernel
    if op == "ConvTranspose" and not auto.startswith("SAME"):
        more["output_padding"] = [draw(st.integers(0, s - 1)) for s in strides]
    return op, kernel, draw(st.sampled_from([1, 2])), more


@settings(max_examples=30, deadline=None)
@given(layer=layers(), data=st.data())
def test_a_cropped_model_computes_the_same(layer, data):
    op, kernel, group, more = layer
    model = network(op, kernel, group, 12, **more)
    rows, columns = (data.draw(st.sets(st.integers(0, k - 1))) for k in kernel)
    empty(model, rows, columns)
    cut, gone, labels = cropped(model)
    (feed,) = feeds(model)
    names = [o.name for o in model.graph.outputs]
    expected = open_session(model_bytes(model)).run(names, feed)
    assert compare_outputs(expected, open_session(model_bytes(cut)).run(names, feed)) < 1e-5
    prove(mask_channels(model, labels, gone), cut, [feed])
    assert all(n >= 1 for n in kernel_of(cut))


@pytest.mark.parametrize(
    ("rows", "columns", "attributes", "left"),
    [
        ({0, 2}, {0, 2}, {"pads": [1, 1, 1, 1]}, (1, 1)),
        ({0}, set(), {"pads": [1, 1, 1, 1]}, (2, 3)),
        ({1}, set(), {"pads": [1, 1, 1, 1]}, (2, 3)),
        ({0, 1}, {2}, {"pads": [1, 0, 0, 1]}, (2, 2)),
        ({0, 2}, {0, 2}, {}, (3, 3)),
        ({0, 1, 2}, {0, 1, 2}, {"pads": [1, 1, 1, 1]}, (3, 3)),
        ({0, 2}, {0}, {"auto_pad": "SAME_UPPER"}, (1, 2)),
    ],
)
def test_kernels_lose_what_padding_and_dilation_can_replace(rows, columns, attributes, left):
    model = network("Conv", (3, 3), **attributes)
    empty(model, rows, columns)
    cut, _, _ = cropped(model)
    assert kernel_of(cut) == left


def test_only_channels_that_stay_count():
    model = network("Conv", (3, 3), pads=[1, 1, 1, 1])
    value = model.graph.initializers["kernel"]
    content = np.array(constant_of(value))
    content[1:, :, 0] = 0
    set_constant(value, content)
    _, labels, classes = classes_of(model)
    keep = {n: np.arange(c.size) > 0 for n, c in classes.items() if c.size == 6}
    dead = dead_labels(list(classes.values()), keep)
    cut, gone, _ = cropped(model, dead)
    assert kernel_of(cut) == (2, 3)
    prove(mask_channels(model, labels, gone), cut, feeds(model))


def test_a_shared_kernel_is_cropped_as_far_as_all_of_its_layers_allow():
    b = Builder(0, 4, 6)
    w = b.weight(4, 4, 5, 5, name="kernel")
    for pad in (2, 1):
        b.value = b.node("Conv", b.value, w, pads=[pad] * 4)
    b.channels = 4
    b.conv(3, kernel=1)
    model = b.model()
    empty(model, {0, 1, 3, 4}, {4})
    cut, gone, labels = cropped(model)
    assert kernel_of(cut) == (3, 4)
    prove(mask_channels(model, labels, gone), cut, feeds(model))
