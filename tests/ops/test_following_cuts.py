"""Operators that hold sizes, bounds or indices: what is left after a cut computes what the mask computes.

Each graph is a convolution, the operator under test on its channels, a convolution, and a head.
"""

from __future__ import annotations

import cases_elementwise
import cases_movement
import numpy as np
import onnx_ir as ir
import pytest
import torch
from graphs import Builder
from onnx import helper, numpy_helper
from test_contract import CASES, OPSETS, exists, model_of

from onnxadmm.bench import open_session
from onnxadmm.channels import classify, dead_labels, label
from onnxadmm.compact import compare_outputs, cut_channels, mask_channels, prove
from onnxadmm.errors import ModelError
from onnxadmm.graph import model_bytes, probe
from onnxadmm.modules import import_model

FAR = np.iinfo(np.int64).max
NEAR = np.iinfo(np.int32).min


def network(block, channels=8, after=None, opset=17):
    """Write conv, block, conv, head; the block gets the builder and returns the new value."""
    b = Builder(3, 2, 6, opset=opset)
    b.conv(channels)
    b.value = block(b)
    b.channels = after or channels
    b.conv(4, kernel=1)
    # A head that also takes what has other spatial sizes, or a batch of its own.
    b.value = b.node("GlobalAveragePool", b.value)
    return b.model()


def cut_and_prove(model, pattern=(0, 2, 3, 5)):
    """Keep some channels of every class that can go, prove it, and return classes and cut model."""
    seen = probe(model)
    labels = label(model, seen)
    classes = {c.name: c for c in classify(labels, seen)}
    kept = {
        name: np.isin(np.arange(c.size) % 6, pattern) for name, c in classes.items() if not c.fixed
    }
    dead = dead_labels(list(classes.values()), kept)
    cut = cut_channels(model, labels, seen, dead)
    x = np.random.default_rng(1).standard_normal((3, 2, 6, 6)).astype(np.float32)
    prove(mask_channels(model, labels, dead), cut, [{"x": x}])
    for graph in (model, cut):
        imported = import_model(graph, probe(graph))
        expected = open_session(model_bytes(graph)).run(None, {"x": x})
        got = [y.detach().numpy() for y in imported.module(torch.from_numpy(x))]
        assert compare_outputs(expected, got) < 1e-5
    return classes, cut


def free(classes):
    return sorted(c.size for c in classes.values() if not c.fixed)


def sizes_of(b, *wanted):
    """Compute a shape: numbers as they are, an axis of the current value for each (axis,)."""
    parts = []
    shape = b.node("Shape", b.value)
    for n in wanted:
        if isinstance(n, tuple):
            one = b.node("Gather", shape, b.constant(n[0]), axis=0)
            parts.append(b.node("Unsqueeze", one, b.constant([0])))
        else:
            parts.append(b.constant([n]))
    return b.node("Concat", *parts, axis=0)


SLICES = {
    "middle": (([2], [7], [1], [1]), 5),
    "from the end": (([-3], [FAR], [1], [1]), 3),
    "backwards": (([-1], [NEAR], [1], [-1]), 8),
    "backwards from the middle": (([5], [1], [1], [-1]), 4),
    "several axes": (([1, 0], [6, 4], [1, 3], [1, 1]), 5),
}


@pytest.mark.parametrize("name", SLICES)
def test_slice(name):
    bounds, left = SLICES[name]
    model = network(lambda b: b.node("Slice", b.value, *(b.constant(c) for c in bounds)), 8, left)
    classes, cut = cut_and_prove(model)
    assert free(classes)
    assert next(n for n in cut.graph if n.op_type == "Slice").inputs[1].const_value is not None


def test_slice_before_opset_10():
    def block(b):
        return b.node("Slice", b.value, axes=[1], starts=[1], ends=[6])

    assert free(cut_and_prove(network(block, 8, 5, opset=9))[0])


def test_a_slice_with_a_step_fixes_its_channels():
    def block(b):
        return b.node("Slice", b.value, *(b.constant([n]) for n in (0, FAR, 1, 2)))

    classes, _ = cut_and_prove(network(block, 8, 4))
    assert not free(classes)
    assert any("takes one of 2" in (c.reason or "") for c in classes.values())


def test_gather_of_channels():
    def block(b):
        return b.node("Gather", b.value, b.constant([7, 0, 3, -2, 3, 5]), axis=1)

    classes, cut = cut_and_prove(network(block, 8, 6))
    assert sum(free(classes)) == 8
    gather = next(n for n in cut.graph if n.op_type == "Gather")
    places = gather.inputs[1].const_value.numpy()
    width = next(n for n in cut.graph if n.op_type == "Conv").inputs[1].shape[0]
    assert places.min() >= 0
    assert places.max() < width < 8


def test_a_gather_that_drops_the_axis_fixes_its_channels():
    def block(b):
        one = b.node("Gather", b.value, b.constant(2), axis=1)
        return b.node("Unsqueeze", one, b.constant([1]))

    assert not free(cut_and_prove(network(block, 8, 1))[0])


@pytest.mark.parametrize(
    ("shape", "can_go"),
    [
        (((0,), 8, 36), True),
        (((0,), (1,), -1), True),
        (((0,), 8, -1), True),
        ((-1, (1,), 36), True),
        (((0,), (1,), (2,), (3,)), True),
    ],
)
def test_a_computed_reshape_follows(shape, can_go):
    def block(b):
        flat = b.node("Reshape", b.value, sizes_of(b, *shape))
        return b.node("Reshape", flat, sizes_of(b, (0,), (1,), (2,), (3,)))

    classes, _ = cut_and_prove(network(block))
    assert bool(free(classes)) is can_go


def test_flattening_by_the_batch_size_alone_fixes_nothing():
    def block(b):
        flat = b.node("Reshape", b.value, sizes_of(b, (0,), -1))
        return b.node("Reshape", flat, b.constant([-1, 8, 6, 6]))

    assert free(cut_and_prove(network(block))[0]) == [8]


def test_a_number_of_channels_used_in_arithmetic_keeps_its_value():
    def block(b):
        shape = b.node("Shape", b.value)
        count = b.node("Gather", shape, b.constant([1]), axis=0)
        number = b.node("Cast", count, to=1)
        return b.node("Div", b.value, number)

    classes, _ = cut_and_prove(network(block))
    assert free(classes) == [8]


def test_expand_to_a_constant_and_to_another_tensors_shape():
    def block(b):
        pooled = b.node("GlobalAveragePool", b.value)
        stretched = b.node("Expand", pooled, b.node("Shape", b.value))
        whole = b.node("Expand", b.value, b.constant([1, 8, 6, 6]))
        return b.node("Add", stretched, whole)

    assert free(cut_and_prove(network(block))[0]) == [8]


def test_a_constant_of_the_shape_of_a_tensor_goes_with_it():
    def block(b):
        ones = helper.make_tensor("v", 1, [1], [0.5])
        return b.node(
            "Mul", b.value, b.node("ConstantOfShape", b.node("Shape", b.value), value=ones)
        )

    assert free(cut_and_prove(network(block))[0]) == [8]


@pytest.mark.parametrize(
    "wanted", [((0,), (1,), 9, 9), (1, 8, 9, 9), ((0,), 8, 9, 9)], ids=["read", "given", "mixed"]
)
def test_resize_to_sizes(wanted):
    def block(b):
        # The batch of a given size is 1: it is the probe's, and the data is cut down to it.
        value = b.value
        if wanted[0] == 1:
            value = b.node("Slice", value, *(b.constant([n]) for n in (0, 1, 0, 1)))
        sizes = sizes_of(b, *wanted)
        return b.node("Resize", value, "", "", sizes, mode="linear")

    classes, _ = cut_and_prove(network(block))
    assert bool(free(classes)) is (wanted[1:2] == ((1,),) or wanted[0] == 1)


def test_resize_by_scales_tile_and_pad():
    def block(b):
        up = b.node("Resize", b.value, "", b.constant([1, 1, 2, 2], np.float32))
        twice = b.node("Tile", up, b.constant([1, 2, 1, 1]))
        return b.node("Pad", twice, b.constant([0, 1, 0, 0, 0, 2, 1, 1]))

    assert free(cut_and_prove(network(block, 8, 19))[0]) == [8]


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_couples_the_positions_of_a_block(mode):
    def block(b):
        return b.node("DepthToSpace", b.value, blocksize=2, mode=mode)

    assert free(cut_and_prove(network(block, 24, 6))[0]) == [6]


def test_space_to_depth_repeats_channels():
    def block(b):
        return b.node("SpaceToDepth", b.value, blocksize=2)

    assert free(cut_and_prove(network(block, 8, 32))[0]) == [8]


def test_reductions_over_positions_and_over_channels_let_channels_go():
    def spatial(b):
        mean = b.node("ReduceMean", b.value, axes=[2, 3])
        return b.node("Sub", b.value, mean)

    def across(b):
        return b.node("Add", b.value, b.node("ReduceMax", b.value, axes=[1]))

    assert free(cut_and_prove(network(spatial))[0]) == [8]
    assert free(cut_and_prove(network(across))[0]) == [8]


def test_an_einsum_by_a_weight_is_a_layer():
    def block(b):
        return b.node("Einsum", b.value, b.weight(5, 8), equation="nchw,oc->nohw")

    classes, _ = cut_and_prove(network(block, 8, 5))
    assert free(classes) == [5, 8]


@pytest.mark.parametrize(
    ("op", "opset", "goes"),
    [
        ("Log", 17, True),
        ("Reciprocal", 17, True),
        ("Acosh", 17, True),
        ("ReduceLogSum", 17, False),
        ("Log", 8, False),
        ("Reciprocal", 8, False),
    ],
)
def test_what_is_not_finite_at_zero_holds_channels_where_the_reference_cannot_leave_it_out(
    op, opset, goes
):
    def block(b):
        # Of a removed channel nothing is added: the operator is given a zero.
        more = b.constant(np.full((8, 1, 1), 1.5), np.float32)
        attributes = {"axes": [2, 3]} if op == "ReduceLogSum" else {}
        return b.node(op, b.node("Add", b.node("Abs", b.value), more), **attributes)

    assert free(cut_and_prove(network(block, opset=opset))[0]) == ([8] if goes else [])


@pytest.mark.parametrize(("opset", "goes"), [(8, False), (17, True)])
def test_a_constant_divisor_by_channel_goes_where_the_reference_can_leave_its_zeros_out(
    opset, goes
):
    def block(b):
        return b.node("Div", b.value, b.constant(np.full((8, 1, 1), 2), np.float32))

    assert free(cut_and_prove(network(block, opset=opset))[0]) == ([8] if goes else [])


def test_an_embedding_loses_its_width():
    b = Builder(0, 2, 6)
    b.conv(4)
    places = b.node("ArgMax", b.node("GlobalAveragePool", b.value), axis=1, keepdims=0)
    rows = b.node("Reshape", places, b.constant([-1, 1]))
    found = b.node("Gather", b.weight(4, 10), rows)
    b.value = b.node("MatMul", found, b.weight(10, 3))
    classes, _ = cut_and_prove(b.model())
    assert free(classes) == [10]


def between_layers(op, opset, case):
    """Put the case between two layers: a mix of the channels before it, a weighted sum after it."""
    one = model_of(op, opset, case)
    shape = case[0]
    if one is None or len(shape) < 2 or one.graph.inputs[0].dtype.numpy() != np.float32:
        return None
    try:
        shapes = probe(one).shapes
    except ModelError:
        return None
    outputs = list(one.graph.outputs)
    proto = ir.to_proto(one)
    rng = np.random.default_rng(0)
    letters = "nchwabde"[: len(shape)]
    mixed = [shape[1], shape[1]]
    weights = {"mix": rng.standard_normal(mixed)}
    nodes = [
        helper.make_node(
            "Einsum",
            ["data", "mix"],
            ["x"],
            name="mix",
            equation=f"{letters},kc->{letters}".replace("->nc", "->nk"),
        ),
        *proto.graph.node,
    ]
    ends = []
    for y in (o.name for o in outputs):
        weights[f"w_{y}"] = np.asarray(rng.standard_normal(shapes[y]))
        names = "abcdefgh"[: len(shapes[y])]
        nodes.append(helper.make_node("Cast", [y], [f"f_{y}"], to=1))
        sides, sums = [f"f_{y}", f"w_{y}"], [f"s_{y}"]
        equation = f"{names},{names}->"
        nodes.append(
            helper.make_node("Einsum", sides, sums, equation=equation)
            if names
            else helper.make_node("Mul", sides, sums)
        )
        ends.append(helper.make_tensor_value_info(f"s_{y}", 1, []))
    held = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    graph = helper.make_graph(
        nodes,
        "between",
        [helper.make_tensor_value_info("data", 1, shape)],
        ends,
        [*proto.graph.initializer, *held],
    )
    opsets = [helper.make_opsetid("", opset)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))


@pytest.mark.parametrize("op", sorted({*cases_elementwise.CASES, *cases_movement.CASES}))
def test_whatever_an_operator_lets_go_can_go(op):
    """Half of every class that is free is cut around every case: masked and cut agree."""
    # Einsum stands beside it from opset 12 on; what ended before then has a successor that is tested.
    opset = max(o for o in OPSETS if exists(op, o))
    for case in CASES[op] if opset >= 12 else ():
        model = between_layers(op, opset, case)
        if model is None:
            continue
        seen = probe(model)
        labels = label(model, seen)
        classes = classify(labels, seen)
        kept = {c.name: np.arange(c.size) % 2 == 1 for c in classes if not c.fixed and c.size > 1}
        dead = dead_labels(classes, kept)
        if not dead:
            continue
        cut = cut_channels(model, labels, seen, dead)
        x = np.random.default_rng(1).standard_normal(case[0]).astype(np.float32)
        expected, got = (
            open_session(model_bytes(m)).run(None, {"data": x})
            for m in (mask_channels(model, labels, dead), cut)
        )
        assert compare_outputs(expected, got) < 1e-5, case


def test_heads_that_several_queries_share_are_stretched():
    """As exporters write `expand` with -1 in the shape: a shape is asked for its own length on the way."""

    def block(b):
        new = b.node("Unsqueeze", b.value, b.constant([1]))
        wanted = sizes_of(b, (0,), 2, (1,), (2,), (3,))
        flat = b.node("Reshape", wanted, b.constant([-1]))
        value = numpy_helper.from_array(np.array([1], np.int64))
        ones = b.node("ConstantOfShape", b.node("Shape", flat), value=value)
        open_axes = b.node("Equal", flat, b.node("Mul", ones, b.constant(-1)))
        shape = b.node("Where", open_axes, ones, flat)
        both = b.node("Expand", new, shape)
        return b.node("ReduceSum", both, b.constant([1]), keepdims=0)

    assert free(cut_and_prove(network(block))[0]) == [8]
