"""Whatever the graph and whatever goes: the cut model computes what the masked one computes."""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import EVERY_BLOCK, Builder, networks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxadmm.channels import classify, dead_labels, label
from onnxadmm.channels.shuffles import find_shuffles
from onnxadmm.compact import cut_channels, mask_channels, prove
from onnxadmm.graph import probe


def feeds(model, seed=0, rows=3):
    rng = np.random.default_rng(seed)
    feed = {}
    for value in model.graph.inputs:
        shape = [d if isinstance(d, int) else rows for d in value.shape]
        feed[value.name] = rng.standard_normal(shape).astype(np.float32)
    return [feed]


def classes_of(model):
    seen = probe(model)
    labels = label(model, seen)
    return seen, labels, {c.name: c for c in classify(labels, seen)}


def cut_half(model):
    """Cut every second channel of every class that can go, and prove it."""
    seen, labels, classes = classes_of(model)
    kept = {n: np.arange(c.size) % 2 == 0 for n, c in classes.items() if not c.fixed}
    dead = dead_labels(list(classes.values()), kept)
    cut = cut_channels(model, labels, seen, dead)
    prove(mask_channels(model, labels, dead), cut, feeds(model))
    return classes, cut


# ONNXADMM_EXAMPLES=2000 draws so many other graphs than CI does, for a night.
LONG = int(os.environ.get("ONNXADMM_EXAMPLES", "0"))


@settings(
    max_examples=LONG or 40,
    derandomize=not LONG,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(model=networks(EVERY_BLOCK), data=st.data())
def test_cut_equals_masked(model, data):
    seen, labels, classes = classes_of(model)
    kept = {}
    for name, c in classes.items():
        if not c.fixed and c.size > 1:
            alive = data.draw(st.sets(st.integers(0, c.size - 1), min_size=1))
            kept[name] = np.isin(np.arange(c.size), list(alive))
    dead = dead_labels(list(classes.values()), kept)
    cut = cut_channels(model, labels, seen, dead)
    proof = prove(mask_channels(model, labels, dead), cut, feeds(model))
    assert proof.samples == 3
    # What was cut is really gone: every axis that carried a dead label is shorter.
    after = probe(cut)
    for name, mask in kept.items():
        for s in classes[name].slices:
            gone = int((~mask[s.positions[s.positions >= 0]]).sum())
            assert after.shapes[s.tensor][s.axis] <= seen.shapes[s.tensor][s.axis] - gone


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=networks(EVERY_BLOCK))
def test_cutting_keeps_names_interface_and_checker(model):
    before = ir.to_proto(model)
    _, cut = cut_half(model)
    after = ir.to_proto(cut)
    onnx.checker.check_model(after, full_check=True)
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert after.opset_import == before.opset_import
    # Of a shuffle that lost channels a Gather is left, under its last node's name.
    shuffles = find_shuffles(model, probe(model)).values()
    inside = {name for s in shuffles for name in s.between}
    inside -= {name for n in after.graph.node for name in n.output}
    # Arithmetic on sizes goes where a number was written down instead, or is written out once more.
    there = {n.name for n in after.graph.node}
    arithmetic = {"Shape", "Gather", "Div", "Concat"}
    stayed = [
        n
        for n in before.graph.node
        if n.output[0] not in inside and (n.name in there or n.op_type not in arithmetic)
    ]
    left = [n.name for n in after.graph.node if not n.name.endswith(":size")]
    assert left == [n.name for n in stayed]
    # What was recorded of shapes is recorded anew, and true.
    shown = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in after.graph.value_info
    }
    made = {name for n in stayed for name in n.output}
    assert shown.keys() >= made & {v.name for v in before.graph.value_info}
    seen = probe(cut)
    for name, dims in shown.items():
        if dims and name in seen.shapes:
            assert all(d in (0, r) for d, r in zip(dims, seen.shapes[name], strict=True)), name
    held = {i.name for i in after.graph.initializer}
    read = {i for n in after.graph.node for i in n.input}
    assert held <= read


def test_nothing_dead_changes_nothing():
    b = Builder(0, 3, 6)
    b.conv(4)
    b.head("flatten")
    model = b.model()
    seen, labels, _ = classes_of(model)
    cut = cut_channels(model, labels, seen, set())
    assert ir.to_proto(cut).SerializeToString() == ir.to_proto(model).SerializeToString()


def test_an_initializer_that_nobody_reads_goes():
    b = Builder(0, 3, 6)
    b.conv(4)
    b.weight(7, 7, name="unread")
    b.head("pool")
    _, cut = cut_half(b.model())
    assert "unread" not in cut.graph.initializers


def test_a_residual_couples_the_layers_that_meet():
    b = Builder(0, 3, 6)
    b.conv(8)
    b.residual()
    b.head("pool")
    _, _, classes = classes_of(b.model())
    stem = classes["conv3"]
    assert stem.size == 8
    assert len(stem.layers) == 2
    assert not stem.fixed


def test_concat_keeps_the_classes_of_its_parts_apart():
    b = Builder(0, 3, 6)
    b.conv(4)
    b.branch()
    b.conv(5)
    b.head("pool")
    _, _, classes = classes_of(b.model())
    assert sorted(c.size for c in classes.values() if not c.fixed) == [4, 4, 5, 7, 7]


def test_groups_keep_equal_counts():
    b = Builder(0, 4, 6)
    b.conv(8, kernel=1)
    b.conv(6, group=2)
    b.head("pool")
    classes, cut = cut_half(b.model())
    # 8 inputs in 2 groups are 4 coupled pairs, 6 filters 3 pairs: half of either stays.
    assert sorted(c.size for c in classes.values() if not c.fixed) == [3, 4, 7]
    grouped = next(n for n in cut.graph if n.attributes.get_int("group", 1) == 2)
    assert tuple(grouped.inputs[1].shape) == (4, 2, 3, 3)


def test_a_depthwise_convolution_goes_with_its_input():
    b = Builder(0, 3, 6)
    b.conv(8)
    b.conv(8, group=8)
    b.conv(4)
    b.head("pool")
    classes, cut = cut_half(b.model())
    assert classes["conv3"].size == 8
    assert [n.attributes.get_int("group", 1) for n in cut.graph if n.op_type == "Conv"] == [1, 4, 1]


def test_a_shuffle_is_followed():
    b = Builder(0, 3, 6)
    b.conv(8)
    b.shuffle(2)
    b.conv(4)
    b.head("pool")
    classes, _ = cut_half(b.model())
    assert not classes["conv3"].fixed


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("Softmax", "computed over all of these channels"),
        ("RandomUniformLike", "no rule for this operator"),
    ],
)
def test_what_cannot_go_says_why(op, reason):
    b = Builder(0, 3, 6)
    b.conv(4)
    if op == "Softmax":
        b.value = b.node("Softmax", b.value, axis=1)
    else:
        b.value = b.node("RandomUniformLike", b.value)
    b.conv(4)
    b.head("pool")
    _, _, classes = classes_of(b.model())
    assert classes["conv3"].fixed
    assert reason in classes["conv3"].reason


def test_the_last_layer_is_fixed_by_the_graph_output():
    b = Builder(0, 3, 6)
    b.conv(4)
    b.head("pool")
    _, _, classes = classes_of(b.model())
    last = [c for c in classes.values() if c.fixed]
    assert len(last) == 1
    assert "reaches the graph output" in last[0].reason
