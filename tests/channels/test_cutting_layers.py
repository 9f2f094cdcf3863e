"""Cut equals masked for layers beside convolutions: transposed, recurrent, normalised, quantized, fused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from test_cutting import classes_of, cut_half, feeds

from onnxadmm.channels import dead_labels
from onnxadmm.compact import cut_channels, mask_channels, prove
from onnxadmm.graph import probe
from onnxadmm.pipeline.analysis import analyse
from onnxadmm.spec import parse_spec

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def attributes_of(model, op):
    node = next(n for n in model.graph if n.op_type == op)
    return {name: a.value for name, a in node.attributes.items()}


def free(classes):
    return {n: c.size for n, c in classes.items() if not c.fixed}


class Sequence(Builder):
    """Writes a graph over a sequence [T, N, I]."""

    def __init__(self, seed: int, channels: int, steps: int = 4) -> None:
        super().__init__(seed, channels, steps)
        self.input_shape = [steps, 2, channels]

    def project(self, out: int) -> None:
        product = self.node("MatMul", self.value, self.weight(self.channels, out, scale=0.5))
        self.value, self.channels = self.node("Add", product, self.weight(out)), out

    def recurrent(
        self, kind: str, hidden: int, direction: str, bias: bool, state: str | None, **attributes
    ) -> str:
        """Add a layer whose outputs of all directions lie behind each other; return its last state."""
        directions, rows = 1 + (direction == "bidirectional"), GATES[kind] * hidden
        weights = [
            self.weight(directions, rows, self.channels, scale=0.6),
            self.weight(directions, rows, hidden, scale=0.6),
        ]
        inputs = [self.value, *weights, self.weight(directions, 2 * rows) if bias else "", ""]
        if state is not None:
            inputs += [state] * (1 + (kind == "LSTM"))
        while not inputs[-1]:
            inputs.pop()
        y, last = self.node(
            kind, *inputs, outputs=2, hidden_size=hidden, direction=direction, **attributes
        )
        together = self.node("Transpose", y, perm=[0, 2, 1, 3])
        self.value = self.node("Reshape", together, self.constant([0, 0, directions * hidden]))
        self.channels = directions * hidden
        return last

    def finish(self) -> ir.Model:
        mean = self.node("ReduceMean", self.value, axes=[0], keepdims=0)
        self.value = self.node("Gemm", mean, self.weight(self.channels, 3), self.weight(3))
        return self.model()


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(list(GATES)),
    direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
    hidden=st.integers(1, 5),
    seed=st.integers(0, 2**16),
)
def test_a_recurrent_layer(kind, direction, hidden, seed):
    b = Sequence(seed, 3)
    b.project(4)
    bias, learned, first = (b.rng.random(3) < 0.5).tolist()
    more = {"linear_before_reset": int(first)} if kind == "GRU" else {}
    directions = 1 + (direction == "bidirectional")
    state = b.weight(directions, 2, hidden) if learned else None
    last = b.recurrent(kind, hidden, direction, bias, state, **more)
    # The next layer starts where this one ended.
    b.recurrent(kind, hidden, direction, bias, last, **more)
    model = b.finish()
    classes, cut = cut_half(model)
    # The projection's channels and, as a state is handed on, the units of both layers together.
    wanted = [4, hidden] if hidden > 1 else [4]
    assert sorted(free(classes).values()) == sorted(wanted)
    sizes = [n.attributes["hidden_size"].as_int() for n in cut.graph if n.op_type == kind]
    assert sizes == [(hidden + 1) // 2] * 2
    seen = probe(cut)
    recurrent = [n for n in cut.graph if n.op_type == kind]
    shapes = [seen.shapes[v.name] for v in recurrent[0].inputs[1:3]]
    rows = GATES[kind] * sizes[0]
    assert shapes == [(directions, rows, 2), (directions, rows, sizes[0])]


@pytest.mark.parametrize("kind", list(GATES))
def test_stacked_layers_keep_their_own_units(kind):
    b = Sequence(0, 3)
    b.recurrent(kind, 6, "bidirectional", bias=True, state=None)
    b.recurrent(kind, 4, "forward", bias=False, state=None)
    classes, _ = cut_half(b.finish())
    assert sorted(free(classes).values()) == [4, 6]


@pytest.mark.parametrize("kind", list(GATES))
@pytest.mark.parametrize("filled", [0.0, 0.5])
def test_layers_that_start_from_parts_of_one_computed_tensor(kind, filled):
    """As torch exports them: one tensor of zeros, its size computed, serves all layers, which differ in width."""
    b = Sequence(0, 3)
    b.project(5)
    samples = b.node("Gather", b.node("Shape", b.value), b.constant([1]), axis=0)
    shape = b.node("Concat", b.constant([3]), samples, b.constant([6]), axis=0)
    value = numpy_helper.from_array(np.array([filled], np.float32))
    states = b.node("ConstantOfShape", shape, value=value)
    parts = [
        b.node("Slice", states, b.constant([first]), b.constant([last]), b.constant([0]))
        for first, last in ((0, 2), (2, 3))
    ]
    b.recurrent(kind, 6, "bidirectional", bias=True, state=parts[0])
    b.recurrent(kind, 6, "forward", bias=True, state=parts[1])
    b.project(4)
    classes, cut = cut_half(b.finish())
    assert sorted(free(classes).values()) == [4, 5, 6, 6]
    # Each layer has its own units, though their first states are one tensor.
    seen, labels, classes = classes_of(b.model())
    one = next(n for n, c in classes.items() if c.size == 6)
    kept = {one: np.arange(6) < 2}
    dead = dead_labels(list(classes.values()), kept)
    cut = cut_channels(b.model(), labels, seen, dead)
    prove(mask_channels(b.model(), labels, dead), cut, feeds(b.model()))
    sizes = [n.attributes["hidden_size"].as_int() for n in cut.graph if n.op_type == kind]
    assert sorted(sizes) == [2, 6]


def test_what_is_stretched_from_one_number_goes_with_what_it_meets():
    """Tensors that are alike all over are read as far as they are needed, and keep their length elsewhere."""
    b = Builder(0, 3, 6)
    b.conv(8)
    one = b.constant([[[[0.7]]]], np.float32)
    same = b.node("Expand", one, b.constant([1, 8, 1, 1]))
    turned = b.node("Transpose", b.node("Sqrt", same), perm=[0, 1, 3, 2])
    b.value = b.node("Mul", b.value, turned)
    b.conv(6)
    b.value = b.node(
        "Concat",
        b.value,
        b.node("Mul", b.value, b.node("Slice", turned, *(b.constant([n]) for n in (0, 6, 1)))),
        axis=1,
    )
    b.channels = 12
    b.head("flatten")
    classes, cut = cut_half(b.model())
    # The head has seven units of its own.
    assert sorted(free(classes).values()) == [6, 7, 8]
    assert probe(cut).shapes[turned][1] == 8


@pytest.mark.parametrize("joined", [False, True])
def test_whole_heads_go_where_the_spec_says_so(joined):
    b = Builder(0, 3, 4)
    b.conv(8)
    if joined:
        # Queries, keys and values out of one product, as ViT has it.
        x = b.tokens()
        all_three = b.node("MatMul", x, b.weight(8, 60))
        split = b.node("Reshape", all_three, b.constant([0, 16, 3, 4, 5]))
        turned = b.node("Transpose", split, perm=[2, 0, 3, 1, 4])
        q, k, v = (b.node("Gather", turned, b.constant(n), axis=0) for n in range(3))
        scores = b.node("MatMul", q, b.node("Transpose", k, perm=[0, 1, 3, 2]))
        mixed = b.node("MatMul", b.node("Softmax", scores, axis=-1), v)
        back = b.node("Transpose", mixed, perm=[0, 2, 1, 3])
        merged = b.node("Reshape", back, b.constant([0, 16, 20]))
        b.from_tokens(b.node("MatMul", merged, b.weight(20, 8)))
    else:
        b.attention(heads=4, width=5)
    b.head("flatten")
    model = b.model()
    sizes = {}
    for heads in ("dimensions", "whole"):
        entry = {"structure": "channel", "amount": 0.5, "heads": heads}
        analysis = analyse(model, parse_spec({"version": 1, "prune": [entry]}))
        classes = [c for c in analysis.classes if not c.fixed]
        sizes[heads] = sorted(c.size for c in classes)
        kept = {c.name: np.arange(c.size) % 2 == 0 for c in classes}
        dead = dead_labels(classes, kept)
        cut = cut_channels(model, analysis.labelling, analysis.probe, dead)
        prove(mask_channels(model, analysis.labelling, dead), cut, feeds(model))
        shapes = probe(cut).shapes
        scores = next(n for n in cut.graph if n.op_type == "Softmax").outputs[0].name
        assert shapes[scores][1] == (2 if heads == "whole" else 4)
    # Elements of a head, of queries with keys and of values (one class where one product makes all); or heads.
    more = [8] if joined else []
    assert sizes["dimensions"] == sorted([5, *([] if joined else [5]), 7, 8, *more])
    assert sizes["whole"] == [4, 7, 8, *more]


def test_peepholes_lengths_and_other_activations_are_cut_too():
    b = Sequence(1, 3)
    b.project(4)
    lengths = b.constant([4, 2], np.int32)
    weights = [b.weight(1, 20, 4), b.weight(1, 20, 5), b.weight(1, 40)]
    inputs = [b.value, *weights, lengths, "", "", b.weight(1, 15)]
    sigmoid = ["HardSigmoid", "Sigmoid", "Tanh"]
    y = b.node("LSTM", *inputs, hidden_size=5, activations=sigmoid, clip=0.9)
    b.value, b.channels = b.node("Squeeze", y, b.constant([1])), 5
    classes, _ = cut_half(b.finish())
    assert sorted(free(classes).values()) == [4, 5]


def test_a_state_from_outside_fixes_the_units():
    b = Sequence(0, 3)
    b.value = b.node("Add", b.value, b.value)
    state = b.node("Slice", b.value, b.constant([0]), b.constant([1]), b.constant([0]))
    b.recurrent("GRU", 3, "forward", bias=True, state=state)
    classes, _ = cut_half(b.finish())
    assert not free(classes)
    assert next(c.reason for c in classes.values() if "gru" in c.name).startswith("meets GRU")


def test_a_state_that_is_an_input_is_named():
    b = Sequence(0, 3)
    b.more_inputs.append(helper.make_tensor_value_info("h0", TensorProto.FLOAT, [1, 2, 3]))
    state = b.node("Identity", "h0")
    b.recurrent("GRU", 3, "forward", bias=True, state=state)
    classes, _ = cut_half(b.finish())
    why = next(c.reason for c in classes.values() if "gru" in c.name)
    assert why.endswith("and the graph input 'h0', whose size stays")


def unchecked(b: Builder) -> ir.Model:
    """Return the model without the shapes that ONNX can't infer for some operators."""
    model = helper.make_graph(
        b.nodes,
        "drawn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, b.input_shape)],
        [helper.make_tensor_value_info(b.value, TensorProto.FLOAT, None)],
        b.initializers,
    )
    opsets = [helper.make_opsetid("", b.opset), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(model, opset_imports=opsets, ir_version=8))


def deconv(b: Builder, out: int, kernel: int = 3, group: int = 1, **attributes) -> None:
    inputs = [b.value, b.weight(b.channels, out // group, kernel, kernel), b.weight(out, scale=0.1)]
    b.value = b.node("ConvTranspose", *inputs, group=group, **attributes)
    b.channels = out


def test_transposed_convolutions():
    b = Builder(0, 3, 4)
    b.conv(8)
    deconv(b, 6, strides=[2, 2])
    b.activation("Sigmoid")
    deconv(b, 8, group=2, output_padding=[1, 0], strides=[2, 2])
    deconv(b, 8, group=8)
    deconv(b, 5, kernel=1)
    b.conv(4)
    b.head("pool")
    classes, cut = cut_half(b.model())
    # 6 channels in 2 groups are 3 pairs; the 4 outputs of a group go in pairs too, and take the
    # depthwise convolution behind them along.
    assert sorted(free(classes).values()) == [3, 4, 4, 5, 7, 8]
    groups = [n.attributes["group"].as_int() for n in cut.graph if n.op_type == "ConvTranspose"]
    assert groups == [1, 2, 4, 1]


def test_a_depthwise_transposed_convolution_with_several_outputs_a_channel():
    b = Builder(0, 3, 4)
    b.conv(6)
    deconv(b, 12, group=6)
    b.conv(4)
    b.head("pool")
    classes, cut = cut_half(b.model())
    assert sorted(free(classes).values()) == [4, 6, 7]
    node = next(n for n in cut.graph if n.op_type == "ConvTranspose")
    assert node.attributes["group"].as_int() == 3
    assert tuple(node.inputs[1].shape) == (3, 2, 3, 3)
    assert tuple(node.inputs[2].shape) == (6,)


@pytest.mark.parametrize("op", ["InstanceNormalization", "GridSample"])
def test_channels_pass_through(op):
    b = Builder(0, 3, 5)
    b.conv(6)
    b.activation("Sigmoid")
    if op == "GridSample":
        grid = b.node("Slice", "x", b.constant([0]), b.constant([2]), b.constant([1]))
        b.value = b.node(op, b.value, b.node("Transpose", grid, perm=[0, 2, 3, 1]))
    else:
        b.value = b.node(op, b.value, b.weight(6), b.weight(6))
    b.conv(4)
    b.head("pool")
    classes, _ = cut_half(b.model())
    assert sorted(free(classes).values()) == [4, 6, 7]


def test_channels_that_read_their_neighbours_stay_and_say_so():
    b = Builder(0, 3, 5)
    b.conv(6)
    b.value = b.node("LRN", b.value, size=3)
    b.conv(4)
    b.head("pool")
    classes, _ = cut_half(b.model())
    assert sorted(free(classes).values()) == [4, 7]
    assert any("read their neighbours" in (c.reason or "") for c in classes.values())


def layer_norm_by_hand(b, op):
    """Write a layer norm over the channels as exporters decompose it."""
    centred = b.node("Sub", b.value, b.node("ReduceMean", b.value, axes=[1]))
    if op == "Pow":
        square = b.node("Pow", centred, b.constant(2, np.float32))
    else:
        square = b.node("Mul", centred, centred)
    variance = b.node("ReduceMean", square, axes=[1])
    root = b.node("Sqrt", b.node("Add", variance, b.constant(1e-6, np.float32)))
    scaled = b.node("Mul", b.node("Div", centred, root), b.weight(6, 1, 1))
    return b.node("Add", scaled, b.weight(6, 1, 1))


def transposed(b, op):
    """Write a norm over the last axis, with the channels brought there and back."""
    last = b.node("Transpose", b.value, perm=[0, 2, 3, 1])
    weights = [b.weight(6) for _ in range(1 + (op == "LayerNormalization"))]
    return b.node("Transpose", b.node(op, last, *weights), perm=[0, 3, 1, 2])


RENORMALISED = {
    "Pow": lambda b: layer_norm_by_hand(b, "Pow"),
    "Mul": lambda b: layer_norm_by_hand(b, "Mul"),
    "LayerNormalization": lambda b: transposed(b, "LayerNormalization"),
    "RMSNormalization": lambda b: transposed(b, "RMSNormalization"),
    "LpNormalization": lambda b: b.node("LpNormalization", b.value, axis=1),
    "ReduceL2": lambda b: b.node("Div", b.value, b.node("ReduceL2", b.value, b.constant([1]))),
    "ReduceMax": lambda b: b.node("Add", b.value, b.node("ReduceMax", b.value, b.constant([1]))),
    "GroupNormalization": lambda b: b.node(
        "GroupNormalization", b.value, b.weight(6), b.weight(6), num_groups=2
    ),
    "MeanVarianceNormalization": lambda b: b.node("MeanVarianceNormalization", b.value),
    "sigmoid": lambda b: b.node("Add", b.value, squares(b)),
}


def squares(b):
    """Write a product of two computed tensors over channels that are never 0."""
    flat = b.node("Reshape", b.node("Sigmoid", b.value), b.constant([0, 6, 25]))
    product = b.node("MatMul", b.node("Transpose", flat, perm=[0, 2, 1]), flat)
    mean = b.node("ReduceMean", product, b.constant([2]))
    return b.node("Reshape", mean, b.constant([0, 1, 5, 5]))


@pytest.mark.parametrize("name", RENORMALISED)
def test_channels_under_a_statistic_go_and_are_marked(name):
    opsets = {"Pow": 17, "Mul": 17, "RMSNormalization": 23}
    b = Builder(0, 3, 5, opset=opsets.get(name, 21))
    b.conv(6)
    b.value = RENORMALISED[name](b)
    b.conv(4)
    b.head("pool")
    classes, _ = cut_half(unchecked(b))
    groups = 2 if name == "GroupNormalization" else 1
    assert sorted(free(classes).values()) == sorted([6 // groups, 4, 7])
    marked = [c.size for c in classes.values() if c.renormalised]
    own = name in ("MeanVarianceNormalization", "sigmoid")
    assert marked == ([] if own else [6 // groups])


@pytest.mark.parametrize("by", ["Div", "Mul"])
def test_a_mean_with_its_count_as_a_constant_shrinks_with_it(by):
    b = Builder(0, 3, 5)
    b.conv(6)
    total = b.node("ReduceSum", b.value, b.constant([1]))
    number = b.constant(6 if by == "Div" else 1 / 6, np.float32)
    b.value = b.node("Sub", b.value, b.node(by, total, number))
    b.conv(4)
    b.head("pool")
    classes, cut = cut_half(b.model())
    assert sorted(free(classes).values()) == [4, 6, 7]
    mean = next(n for n in cut.graph if n.op_type == by)
    assert mean.inputs[1].const_value.numpy() == np.float32(3 if by == "Div" else 1 / 3)


@pytest.mark.parametrize("zero", [None, 0, 7])
def test_weights_quantized_by_channel_keep_their_zero_points(zero):
    b = Builder(0, 3, 5)
    b.conv(6)
    w, scale = b.weight(5, 6, 3, 3), b.name("s")
    content = np.arange(1, 6, dtype=np.float32) / 200
    b.initializers.append(onnx.numpy_helper.from_array(content, scale))
    given = [] if zero is None else [b.constant(np.arange(5) % 3 + zero, np.int8)]
    q = b.node("QuantizeLinear", w, scale, *given, axis=0)
    dq = b.node("DequantizeLinear", q, scale, *given, axis=0)
    b.value, b.channels = b.node("Conv", b.value, dq, pads=[1, 1, 1, 1]), 5
    activation = b.constant(0.05, np.float32)
    b.value = b.node("QuantizeLinear", b.value, activation, b.constant(100, np.uint8))
    b.value = b.node("DequantizeLinear", b.value, activation, b.constant(100, np.uint8))
    b.head("pool")
    classes, cut = cut_half(b.model())
    assert sorted(free(classes).values()) == [5, 6, 7]
    node = next(n for n in cut.graph if n.op_type == "QuantizeLinear")
    if zero is not None:
        assert node.inputs[2].const_value.numpy().tolist() == [zero, zero + 2, zero + 1]


def test_integer_weights_fix_their_channels():
    b = Builder(0, 3, 5)
    b.conv(6)
    w = b.constant(np.arange(5 * 6 * 9).reshape(5, 6, 3, 3) % 7, np.int8)
    dq = b.node("DequantizeLinear", w, b.weight(5), axis=0)
    b.value, b.channels = b.node("Conv", b.value, dq, pads=[1, 1, 1, 1]), 5
    b.head("pool")
    classes, _ = cut_half(b.model())
    assert sorted(free(classes).values()) == [7]


def test_fused_operators():
    own = {"domain": "com.microsoft"}
    b = Builder(0, 3, 5)
    weights = [b.weight(6, 3, 3, 3), b.weight(6)]
    first = b.node("FusedConv", b.value, *weights, activation="Relu", pads=[1] * 4, **own)
    inputs = [first, b.weight(6, 1, 3, 3), b.weight(6), first]
    summed = b.node("FusedConv", *inputs, activation="Tanh", group=6, pads=[1] * 4, **own)
    pooled = b.node("Flatten", b.node("GlobalAveragePool", summed))
    wide = b.node("FusedMatMul", pooled, b.weight(8, 6), transB=1, alpha=0.5, **own)
    wide = b.node("BiasGelu", wide, b.weight(8), **own)
    wide = b.node("QuickGelu", b.node("FastGelu", wide, b.weight(8), **own), **own)
    b.value = b.node("FusedMatMul", wide, b.weight(8, 3), **own)
    classes, cut = cut_half(unchecked(b))
    assert sorted(free(classes).values()) == [6, 8]
    assert [n.attributes.get_int("group", 1) for n in cut.graph if n.op_type == "FusedConv"] == [
        1,
        3,
    ]


def test_a_fused_residual_loses_width_and_what_is_between():
    own = {"domain": "com.microsoft"}
    b = Builder(0, 3, 5)
    flat = b.node("Flatten", b.value)
    wide = b.node("MatMul", flat, b.weight(75, 6))
    inner = b.node("BiasGelu", b.node("MatMul", wide, b.weight(6, 8)), b.weight(8), **own)
    inner = b.node("MatMul", inner, b.weight(8, 6))
    # Of this output's batch and width: input, skip, scale, shift, bias.
    norm = b.node("SkipLayerNormalization", inner, wide, *(b.weight(6) for _ in range(3)), **own)
    norm = b.node("SkipSimplifiedLayerNormalization", norm, wide, b.weight(6), **own)
    b.value = b.node("MatMul", norm, b.weight(6, 3))
    classes, _ = cut_half(unchecked(b))
    assert sorted(free(classes).values()) == [6, 8]
