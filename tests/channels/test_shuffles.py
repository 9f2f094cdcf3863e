"""Channel shuffles: labels pass one by one, any dead set is cut exactly, computed bounds follow."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxadmm.channels import classify, dead_labels, label
from onnxadmm.compact import cut_channels, mask_channels, prove
from onnxadmm.graph import model_bytes, probe, shared_uniform, untie_uniform

F = np.float32


def graph(body, weights, result="float[N,3,5,4] y"):
    """Return a model over x [N, 2, 5, 4]."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[N,2,5,4] x) => ({result}) {{ {body} }}'
    )
    for name, content in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(content), name))
    return ir.from_proto(model)


def cut_and_prove(model, seed, share=0.5):
    """Cut a random dead set of every class that can go, and prove it; return the cut and the classes."""
    seen = probe(model)
    labelling = label(model, seen)
    classes = classify(labelling, seen)
    rng = np.random.default_rng(seed)
    keep = {}
    for c in classes:
        if not c.fixed:
            mask = rng.random(c.size) >= share
            one = int(rng.integers(c.size))
            mask[one], mask[(one + 1) % c.size] = True, c.size == 1
            keep[c.name] = mask
    dead = dead_labels(classes, keep)
    cut = cut_channels(model, labelling, seen, dead)
    onnx.checker.check_model(model_bytes(cut), full_check=True)
    feeds = [{"x": rng.standard_normal((n, 2, 5, 4)).astype(F)} for n in (1, 3)]
    prove(mask_channels(model, labelling, dead), cut, feeds)
    return cut, classes, labelling


def shuffled(rng, groups, per_group, target="[0, {g}, {p}, 5, 4]"):
    channels = groups * per_group
    split = target.format(g=groups, p=per_group)
    body = f"""
        a = Conv(x, first) b = Relu(a)
        s = Constant <value_ints = {split}> () t = Constant <value_ints = [0, {channels}, 5, 4]> ()
        c = Reshape(b, s) d = Transpose <perm = [0, 2, 1, 3, 4]> (c) e = Reshape(d, t)
        y = Conv(e, second)"""
    weights = {
        "first": rng.standard_normal((channels, 2, 1, 1)).astype(F),
        "second": rng.standard_normal((3, channels, 1, 1)).astype(F),
    }
    return graph(body, weights)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(2, 7))
def test_every_channel_of_a_shuffle_goes_alone(seed, groups, per_group):
    model = shuffled(np.random.default_rng(seed), groups, per_group)
    cut, classes, _ = cut_and_prove(model, seed)
    assert [c.size for c in classes if not c.fixed] == [groups * per_group]
    assert not any(n.op_type == "Transpose" for n in cut.graph)
    assert [n.op_type for n in cut.graph].count("Gather") == 1
    assert {v.name for v in cut.graph.initializers.values()} == {"first", "second", "e:order"}


def test_a_shuffle_that_loses_nothing_stays_as_it_is():
    model = shuffled(np.random.default_rng(0), 2, 3)
    seen = probe(model)
    cut = cut_channels(model, label(model, seen), seen, ())
    assert [n.op_type for n in cut.graph] == [n.op_type for n in model.graph]


def test_what_is_read_in_the_middle_is_no_shuffle():
    rng = np.random.default_rng(0)
    body = """
        a = Conv(x, first)
        s = Constant <value_ints = [0, 2, 3, 5, 4]> () t = Constant <value_ints = [0, 6, 5, 4]> ()
        c = Reshape(a, s) d = Transpose <perm = [0, 2, 1, 3, 4]> (c) e = Reshape(d, t)
        m = ReduceMax <axes = [2, 3, 4], keepdims = 0> (d)
        f = Conv(e, second)
        k = ReduceMean <axes = [1], keepdims = 0> (m)
        q = Constant <value_ints = [-1, 1, 1, 1]> () r = Reshape(k, q)
        y = Add(f, r)"""
    weights = {
        "first": rng.standard_normal((6, 2, 1, 1)).astype(F),
        "second": rng.standard_normal((3, 6, 1, 1)).astype(F),
    }
    _, _, labelling = cut_and_prove(graph(body, weights), 0)
    assert not labelling.shuffles


@pytest.mark.parametrize("perm", [[0, 1, 2, 4, 3], [0, 3, 1, 2, 4]])
def test_an_order_that_touches_other_axes_is_no_shuffle(perm):
    rng = np.random.default_rng(0)
    body = f"""
        a = Conv(x, first)
        s = Constant <value_ints = [0, 2, 3, 5, 4]> () t = Constant <value_ints = [0, 6, 5, 4]> ()
        c = Reshape(a, s) d = Transpose <perm = {perm}> (c) e = Reshape(d, t)
        y = Conv(e, second)"""
    weights = {
        "first": rng.standard_normal((6, 2, 1, 1)).astype(F),
        "second": rng.standard_normal((3, 6, 1, 1)).astype(F),
    }
    _, _, labelling = cut_and_prove(graph(body, weights), 0)
    assert not labelling.shuffles


@pytest.mark.parametrize("seed", range(6))
def test_halves_whose_bounds_are_arithmetic_on_the_size_are_cut(seed):
    rng = np.random.default_rng(seed)
    body = """
        a = Conv(x, first)
        s = Shape(a)
        i = Constant <value_ints = [1]> () two = Constant <value_ints = [2]> ()
        zero = Constant <value_ints = [0]> ()
        n = Gather(s, i) p = Add(n, i) h = Div(p, two) w = Mul(h, two)
        l = Slice(a, zero, h, i) r = Slice(a, h, w, i)
        u = Conv(l, second) v = Conv(r, third)
        y = Add(u, v)"""
    weights = {
        "first": rng.standard_normal((10, 2, 1, 1)).astype(F),
        "second": rng.standard_normal((3, 5, 1, 1)).astype(F),
        "third": rng.standard_normal((3, 5, 1, 1)).astype(F),
    }
    cut, classes, _ = cut_and_prove(graph(body, weights), seed)
    assert sorted(c.size for c in classes if not c.fixed) == [5, 5]
    assert not any(n.op_type in ("Shape", "Div") for n in cut.graph)


def test_shared_vectors_of_one_number_tie_nothing():
    rng = np.random.default_rng(0)
    body = """
        b2 = Identity(b1)
        a = Conv(x, first, b1) c = Relu(a) d = Conv(c, second, b2) e = Relu(d)
        y = Conv(e, third)"""
    weights = {
        "first": rng.standard_normal((6, 2, 1, 1)).astype(F),
        "second": rng.standard_normal((6, 6, 1, 1)).astype(F),
        "third": rng.standard_normal((3, 6, 1, 1)).astype(F),
        "b1": np.zeros(6, F),
    }
    model = graph(body, weights)
    assert [v.name for v in shared_uniform(model)] == ["b1"]
    untie_uniform(model)
    assert not shared_uniform(model)
    assert {"b1", "b2"} <= set(model.graph.initializers)
    _, classes, _ = cut_and_prove(model, 0)
    assert [c.size for c in classes if not c.fixed] == [6, 6]


@pytest.mark.parametrize("measured", ["a", "b"])
def test_a_shuffle_whose_shapes_are_computed_goes_with_the_size_that_they_read(measured):
    """The shapes go when the shuffle loses channels, and hold when it doesn't: both are coupled."""
    rng = np.random.default_rng(0)
    body = f"""
        a = Conv(x, first) b = Conv(x, other)
        s = Shape({measured})
        i = Constant <value_ints = [1]> () two = Constant <value_ints = [2]> ()
        zero = Constant <value_ints = [0]> () area = Constant <value_ints = [5, 4]> ()
        n = Gather(s, i) h = Div(n, two)
        p = Concat <axis = 0> (zero, two, h, area) q = Concat <axis = 0> (zero, n, area)
        c = Reshape(a, p) d = Transpose <perm = [0, 2, 1, 3, 4]> (c) e = Reshape(d, q)
        u = Conv(e, second) v = Conv(b, third)
        y = Add(u, v)"""
    weights = {
        "first": rng.standard_normal((6, 2, 1, 1)).astype(F),
        "other": rng.standard_normal((6, 2, 1, 1)).astype(F),
        "second": rng.standard_normal((3, 6, 1, 1)).astype(F),
        "third": rng.standard_normal((3, 6, 1, 1)).astype(F),
    }
    _, classes, labelling = cut_and_prove(graph(body, weights), 0)
    assert labelling.shuffles
    free = [c.size for c in classes if not c.fixed]
    assert free == ([6, 6] if measured == "a" else [6])
