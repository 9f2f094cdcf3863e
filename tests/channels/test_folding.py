"""Channels that do nothing go exactly: constants move into the next bias, or the channel stays."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import EVERY_BLOCK, Builder, networks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cutting import classes_of, feeds

from onnxadmm.bench import open_session
from onnxadmm.compact import compare_outputs, cut_channels, fold_idle
from onnxadmm.graph import constant_of, model_bytes, probe
from onnxadmm.graph.constants import set_constant


def zero_filters(model, name, filters):
    """Set filters of a layer's weight to zero: a user's pruning without surgery."""
    value = model.graph.initializers[name]
    content = np.array(constant_of(value))
    content[list(filters)] = 0
    set_constant(value, content)


def without_idle(model, steps=None):
    """Cut what does nothing, compare with the uncut graph, and return the cut one with what went."""
    seen, labels, classes = classes_of(model)
    folded = fold_idle(model, labels, seen, list(classes.values()), (), steps=steps or {})
    cut = cut_channels(folded.model, folded.labelling, folded.probe, folded.idle)
    names = [o.name for o in model.graph.outputs]
    (feed,) = feeds(model)
    before, after = (open_session(model_bytes(m)).run(names, feed) for m in (model, cut))
    assert compare_outputs(before, after) < 1e-5
    return cut, folded


def widths(model):
    return {n.name: n.inputs[1].shape[0] for n in model.graph if n.op_type == "Conv"}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=networks(EVERY_BLOCK), data=st.data())
def test_whatever_filters_are_zero_the_outputs_stay(model, data):
    layers = [n for n in model.graph if n.op_type in ("Conv", "Gemm")]
    for node in layers:
        value = node.inputs[1]
        if data.draw(st.booleans()):
            content = np.array(constant_of(value))
            size = content.shape[0]
            content[list(data.draw(st.sets(st.integers(0, size - 1), max_size=size)))] = 0
            set_constant(value, content)
    without_idle(model)


def chain(kernel, pads, *, batchnorm=True, activation="Sigmoid"):
    b = Builder(3, 3, 6)
    b.conv(8, w=b.weight(8, 3, 3, 3, name="first"))
    if batchnorm:
        b.batchnorm()
    b.activation(activation)
    w = b.weight(5, 8, kernel, kernel)
    b.value, b.channels = b.node("Conv", b.value, w, pads=[pads] * 4), 5
    b.size += 2 * pads - kernel + 1
    b.head("flatten")
    return b.model()


def test_a_constant_moves_into_the_next_bias_where_no_padding_sees_it():
    model = chain(3, 0)
    zero_filters(model, "first", {1, 4, 6})
    cut, _ = without_idle(model)
    first, second = widths(cut).values()
    assert (first, second) == (5, 5)
    # The second layer had no bias.
    consumer = [n for n in cut.graph if n.op_type == "Conv"][1]
    assert tuple(consumer.inputs[2].shape) == (5,)


def test_a_constant_that_padding_does_not_hold_stays():
    model = chain(3, 1)
    zero_filters(model, "first", {1, 4, 6})
    cut, folded = without_idle(model)
    assert list(widths(cut).values()) == [8, 5]
    assert folded.model is model


def test_a_constant_of_zero_goes_whatever_the_padding():
    model = chain(3, 1, batchnorm=False, activation="Relu")
    zero_filters(model, "first", {1, 4, 6})
    bias = next(n for n in model.graph if n.op_type == "Conv").inputs[2]
    set_constant(bias, -np.abs(constant_of(bias)))
    cut, _ = without_idle(model)
    assert list(widths(cut).values()) == [5, 5]


def test_what_only_fed_a_useless_channel_goes_too():
    b = Builder(3, 3, 6)
    b.conv(6, kernel=1)
    b.activation("Relu")
    b.conv(4, kernel=1, w=b.weight(4, 6, 1, 1, name="second"))
    b.activation("Tanh")
    b.conv(5, kernel=1, w=b.weight(5, 4, 1, 1, name="third"))
    b.head("pool")
    model = b.model()
    # Nobody reads channels 0 and 1 of the second layer; only they read channel 3 of the first.
    third, second = (
        np.array(constant_of(model.graph.initializers[n])) for n in ("third", "second")
    )
    third[:, :2], second[2:, 3] = 0, 0
    set_constant(model.graph.initializers["third"], third)
    set_constant(model.graph.initializers["second"], second)
    cut, _ = without_idle(model)
    assert list(widths(cut).values()) == [5, 2, 5]


def test_a_residual_keeps_a_channel_that_one_of_its_layers_makes():
    b = Builder(0, 3, 6)
    b.conv(8, w=b.weight(8, 3, 3, 3, name="first"))
    b.residual()
    b.head("pool")
    model = b.model()
    zero_filters(model, "first", {0, 1})
    cut, _ = without_idle(model)
    assert next(iter(widths(cut).values())) == 8


def test_counts_stay_aligned_and_a_layer_never_vanishes():
    model = chain(1, 0)
    zero_filters(model, "first", {1, 4, 6})
    name = next(n for n, c in classes_of(model)[2].items() if c.size == 8)
    assert next(iter(widths(without_idle(model, {name: (4, 1)})[0]).values())) == 8
    assert next(iter(widths(without_idle(model, {name: (2, 1)})[0]).values())) == 6
    assert next(iter(widths(without_idle(model, {name: (1, 7)})[0]).values())) == 7
    zero_filters(model, "first", range(8))
    cut, _ = without_idle(model)
    assert next(iter(widths(cut).values())) == 1


def test_a_bias_that_layers_share_is_not_changed_for_both():
    b = Builder(3, 3, 6)
    b.conv(8, w=b.weight(8, 3, 3, 3, name="first"))
    b.activation("Sigmoid")
    shared = b.weight(4)
    for width in (8, 4):
        b.value = b.node("Conv", b.value, b.weight(4, width, 1, 1), shared)
    b.channels = 4
    b.head("pool")
    model = b.model()
    zero_filters(model, "first", {2})
    cut, _ = without_idle(model)
    assert [n.inputs[2].name == shared for n in cut.graph if n.op_type == "Conv"] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("head", ["matmul", "gemm"])
def test_matrix_products_take_the_constant(head):
    b = Builder(3, 4, 1)
    b.input_shape = ["N", 4]
    first = b.weight(6, 4, name="first")
    b.value = b.node("Gemm", b.value, first, b.weight(6), transB=1)
    b.value = b.node("Gelu" if b.opset > 19 else "Softplus", b.value)
    if head == "gemm":
        scales = {"alpha": 0.5, "beta": 2.0}
        b.value = b.node("Gemm", b.value, b.weight(6, 3), b.constant([1.0], np.float32), **scales)
    else:
        b.value = b.node("Add", b.weight(3), b.node("MatMul", b.value, b.weight(6, 3)))
    model = b.model()
    zero_filters(model, "first", {0, 5})
    cut, _ = without_idle(model)
    assert probe(cut).shapes["first"] == (4, 4)


def test_weights_that_the_graph_turns_around_are_looked_through():
    """As a TensorFlow model holds them: filters last, the number of inputs before."""
    b = Builder(3, 3, 6)
    first, second = b.weight(3, 3, 3, 8, name="first"), b.weight(3, 3, 8, 5)
    turned = [b.node("Transpose", w, perm=[3, 2, 0, 1]) for w in (first, second)]
    b.value = b.node("Conv", b.value, turned[0], b.node("Identity", b.weight(8)))
    b.value = b.node("Conv", b.node("Sigmoid", b.value), turned[1])
    b.channels, b.size = 5, 2
    b.head("flatten")
    model = b.model()
    value = model.graph.initializers["first"]
    content = np.array(constant_of(value))
    content[..., [1, 4, 6]] = 0
    set_constant(value, content)
    cut, _ = without_idle(model)
    assert probe(cut).shapes["first"] == (3, 3, 3, 5)
    # What the three held moved into a bias that the second layer had not.
    last = [n for n in cut.graph if n.op_type == "Conv"][1]
    assert constant_of(last.inputs[2]).any()
