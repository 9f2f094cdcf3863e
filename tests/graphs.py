"""Graphs to test with: a Hypothesis strategy that draws convolutional networks with what makes labels hard."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """Writes a graph node by node over one current value [N, C, H, W] or [N, C]."""

    def __init__(self, seed: int, channels: int, size: int, opset: int = 17) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.count = 0
        self.input_shape = ["N", channels, size, size]
        self.value, self.channels, self.size = "x", channels, size
        self.opset = opset
        self.more_inputs: list[onnx.ValueInfoProto] = []
        self.more_outputs: list[str] = []

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def weight(self, *shape: int, name: str | None = None, scale: float | None = None) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        content = self.rng.standard_normal(shape) * (scale or 1 / np.sqrt(fan))
        name = name or self.name("w")
        self.initializers.append(numpy_helper.from_array(content.astype(np.float32), name))
        return name

    def constant(self, content, dtype=np.int64) -> str:
        name = self.name("c")
        self.initializers.append(numpy_helper.from_array(np.array(content, dtype), name))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes) -> str | list[str]:
        name = self.name(op.lower())
        names = [f"{name}_out{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, **attributes))
        return names[0] if outputs == 1 else names

    # --- blocks on the current value

    def conv(self, out: int, kernel: int = 3, group: int = 1, bias: bool = True, w=None) -> None:
        w = w or self.weight(out, self.channels // group, kernel, kernel)
        inputs = [self.value, w] + ([self.weight(out, scale=0.1)] if bias else [])
        self.value = self.node("Conv", *inputs, group=group, pads=[kernel // 2] * 4)
        self.channels = out

    def batchnorm(self) -> None:
        c = self.channels
        statistics = [
            self.weight(c, scale=0.5),
            self.weight(c, scale=0.5),
            self.weight(c, scale=0.5),
        ]
        variance = self.name("w")
        content = self.rng.uniform(0.5, 2, c).astype(np.float32)
        self.initializers.append(numpy_helper.from_array(content, variance))
        self.value = self.node("BatchNormalization", self.value, *statistics, variance)

    def activation(self, op: str) -> None:
        if op == "PRelu":
            self.value = self.node("PRelu", self.value, self.weight(self.channels, 1, 1, scale=0.3))
        else:
            self.value = self.node(op, self.value)

    def residual(self) -> None:
        before, channels = self.value, self.channels
        self.conv(channels)
        self.activation("Relu")
        self.conv(channels, kernel=1)
        self.value = self.node("Add", self.value, before)

    def branch(self) -> None:
        before, channels = self.value, self.channels
        parts = []
        for width in (channels, channels + 3):
            self.value, self.channels = before, channels
            self.conv(width, kernel=1)
            parts.append(self.value)
        self.value = self.node("Concat", *parts, axis=1)
        self.channels = 2 * channels + 3

    def split(self) -> None:
        sizes = [self.channels // 3, self.channels - self.channels // 3]
        if min(sizes) < 1:
            return
        first, second = self.node("Split", self.value, self.constant(sizes), outputs=2, axis=1)
        self.value, self.channels = second, sizes[1]
        self.conv(sizes[1] + 1, kernel=1)
        self.value = self.node("Concat", first, self.value, axis=1)
        self.channels = sizes[0] + sizes[1] + 1

    def gate(self) -> None:
        before, channels = self.value, self.channels
        self.value = self.node("GlobalAveragePool", self.value)
        self.conv(max(2, channels // 2), kernel=1)
        self.activation("Relu")
        self.conv(channels, kernel=1)
        self.activation("Sigmoid")
        self.value = self.node("Mul", before, self.value)

    def shuffle(self, groups: int = 2) -> None:
        if self.channels % groups:
            return
        c, s = self.channels, self.size
        grouped = self.node("Reshape", self.value, self.constant([0, groups, c // groups, s, s]))
        swapped = self.node("Transpose", grouped, perm=[0, 2, 1, 3, 4])
        self.value = self.node("Reshape", swapped, self.constant([0, c, s, s]))

    def part(self) -> None:
        if self.channels < 3:
            return
        bounds = (self.constant([n]) for n in (1, self.channels - 1, 1))
        self.value = self.node("Slice", self.value, *bounds)
        self.channels -= 2

    def turned(self) -> None:
        bounds = (self.constant([n]) for n in (-1, -(2**31), 1, -1))
        self.value = self.node("Slice", self.value, *bounds)

    def picked(self) -> None:
        order = self.rng.permutation(self.channels)[: max(1, self.channels - 1)]
        self.value = self.node("Gather", self.value, self.constant([*order, order[0]]), axis=1)
        self.channels = len(order) + 1

    def centred(self) -> None:
        mean = self.node("ReduceMean", self.value, axes=[2, 3])
        self.value = self.node("Sub", self.value, mean)

    def upsampled(self) -> None:
        if self.size <= 6:
            scales = self.constant([1, 1, 2, 2], np.float32)
            self.value = self.node("Resize", self.value, "", scales, mode="linear")
            self.size *= 2

    def shared(self) -> None:
        channels = self.channels
        w = self.weight(channels, channels, 3, 3)
        self.conv(channels, w=w)
        self.activation("Relu")
        self.conv(channels, w=w)

    def pool(self) -> None:
        if self.size >= 4:
            self.value = self.node("MaxPool", self.value, kernel_shape=[2, 2], strides=[2, 2])
            self.size //= 2

    def strided(self) -> None:
        w = self.weight(self.channels + 1, self.channels, 3, 3)
        self.value = self.node("Conv", self.value, w, strides=[2, 2], auto_pad="SAME_UPPER")
        self.channels, self.size = self.channels + 1, -(-self.size // 2)

    def transposed(self) -> None:
        if self.size > 6:
            return
        weights = [self.weight(self.channels, 4, 2, 2), self.weight(4, scale=0.1)]
        self.value = self.node("ConvTranspose", self.value, *weights, strides=[2, 2])
        self.channels, self.size = 4, 2 * self.size

    def averaged(self) -> None:
        window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        counted = int(self.rng.integers(2))
        self.value = self.node("AveragePool", self.value, count_include_pad=counted, **window)

    def padded(self) -> None:
        pads = self.constant([0, 0, 1, 0, 0, 0, 0, 1])
        self.value = self.node("Pad", self.value, pads)
        self.size += 1

    def channels_last(self, norm: str | None = None) -> None:
        """A layer as TensorFlow lays it out, or a normalisation over the last axis."""
        turned = self.node("Transpose", self.value, perm=[0, 2, 3, 1])
        if norm is None:
            turned = self.node("MatMul", turned, self.weight(self.channels, 5))
            turned = self.node("Relu", self.node("Add", turned, self.weight(5)))
            self.channels = 5
        else:
            c = self.channels
            turned = self.node(
                "LayerNormalization", turned, self.weight(c), self.weight(c), axis=-1, epsilon=1e-2
            )
        self.value = self.node("Transpose", turned, perm=[0, 3, 1, 2])

    def normalised(self) -> None:
        self.channels_last("LayerNormalization")

    def tokens(self) -> str:
        """Return the current value as [N, positions, C]."""
        flat = self.constant([0, self.channels, self.size**2])
        return self.node("Transpose", self.node("Reshape", self.value, flat), perm=[0, 2, 1])

    def from_tokens(self, value: str) -> None:
        turned = self.node("Transpose", value, perm=[0, 2, 1])
        shape = self.constant([0, self.channels, self.size, self.size])
        self.value = self.node("Reshape", turned, shape)

    def attention(self, heads: int = 2, width: int = 3) -> None:
        c, t = self.channels, self.size**2
        x = self.tokens()
        parts = []
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
            made = self.node("MatMul", x, self.weight(c, heads * width))
            made = self.node("Reshape", made, self.constant([0, t, heads, width]))
            parts.append(self.node("Transpose", made, perm=perm))
        scores = self.node("MatMul", parts[0], parts[1])
        scores = self.node("Mul", scores, self.constant(width**-0.5, np.float32))
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), parts[2])
        mixed = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = self.node("Reshape", mixed, self.constant([0, t, heads * width]))
        mixed = self.node("MatMul", mixed, self.weight(heads * width, c))
        self.from_tokens(self.node("Add", x, mixed))

    def sized(self) -> None:
        """Attention whose shapes and scale are computed from the number of channels, as torch's exporters write it."""
        heads = 2 if self.channels % 2 == 0 else 1
        x = self.tokens()
        size = self.node("Gather", self.node("Shape", x), self.constant([2]))
        width = self.node("Div", size, self.constant([heads]))
        lead = self.node("Gather", self.node("Shape", x), self.constant([0, 1]))
        split = self.node("Concat", lead, self.constant([heads]), width, axis=0)
        parts = []
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
            made = self.node("MatMul", x, self.weight(self.channels, self.channels))
            parts.append(self.node("Transpose", self.node("Reshape", made, split), perm=perm))
        root = self.node("Sqrt", self.node("Cast", width, to=TensorProto.FLOAT))
        scores = self.node("Div", self.node("MatMul", *parts[:2]), root)
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), parts[2])
        mixed = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = self.node("Reshape", mixed, self.node("Concat", lead, size, axis=0))
        mixed = self.node("MatMul", mixed, self.weight(self.channels, self.channels))
        self.from_tokens(self.node("Add", x, mixed))

    def statistic(self, kind: str) -> None:
        """A statistic over the channels, from operators or in one."""
        x, c = self.value, self.channels
        if kind == "rms":
            square = self.node("ReduceMean", self.node("Mul", x, x), axes=[1])
            root = self.node("Sqrt", self.node("Add", square, self.constant(0.1, np.float32)))
            self.value = self.node("Mul", self.node("Div", x, root), self.weight(c, 1, 1))
        elif kind == "layer":
            centred = self.node("Sub", x, self.node("ReduceMean", x, axes=[1]))
            square = self.node("ReduceMean", self.node("Mul", centred, centred), axes=[1])
            root = self.node("Sqrt", self.node("Add", square, self.constant(0.1, np.float32)))
            self.value = self.node("Mul", self.node("Div", centred, root), self.weight(c, 1, 1))
        elif kind == "sums":
            # Means by hand: the number of channels is a constant.
            each, axes = self.constant(1 / c, np.float32), self.constant([1])
            mean = self.node("Mul", self.node("ReduceSum", x, axes), each)
            total = self.node("ReduceSum", self.node("Mul", x, x), axes)
            square = self.node("Div", total, self.constant([c], np.float32))
            spread = self.node("Sub", square, self.node("Mul", mean, mean))
            root = self.node("Sqrt", self.node("Add", spread, self.constant(0.1, np.float32)))
            self.value = self.node("Div", self.node("Sub", x, mean), root)
        elif kind == "inverse":
            # Of a removed channel this is infinite.
            above = self.constant(self.rng.uniform(0.5, 1.5, (c, 1, 1)), np.float32)
            self.value = self.node("Reciprocal", self.node("Add", self.node("Abs", x), above))
        elif kind == "l2":
            shifted = self.node("Add", x, self.weight(c, 1, 1))
            self.value = self.node("LpNormalization", shifted, axis=1)
        elif kind == "map":
            both = [self.node(op, x, axes=[1]) for op in ("ReduceMean", "ReduceMax")]
            joined = self.node("Concat", *both, axis=1)
            weights = self.weight(1, 2, 3, 3)
            gate = self.node("Conv", joined, weights, pads=[1] * 4)
            self.value = self.node("Mul", x, self.node("Sigmoid", gate))
        else:
            scale = [self.weight(c), self.weight(c)]
            self.value = self.node("InstanceNormalization", x, *scale, epsilon=0.1)

    def recurrent(self, hidden: int = 4) -> None:
        steps = self.node("Transpose", self.tokens(), perm=[1, 0, 2])
        weights = [
            self.weight(1, 4 * hidden, self.channels, scale=0.5),
            self.weight(1, 4 * hidden, hidden, scale=0.5),
            self.weight(1, 8 * hidden, scale=0.5),
        ]
        y = self.node("LSTM", steps, *weights, hidden_size=hidden)
        y = self.node("Squeeze", y, self.constant([1]))
        self.channels = hidden
        self.from_tokens(self.node("Transpose", y, perm=[1, 0, 2]))

    def another_input(self) -> None:
        name = self.name("z")
        shape = ["N", 2, self.size, self.size]
        self.more_inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        before, channels = self.value, self.channels
        self.value, self.channels = name, 2
        self.conv(channels, kernel=1)
        self.value = self.node("Add", before, self.value)

    def another_output(self) -> None:
        pooled = self.node("Flatten", self.node("GlobalAveragePool", self.value), axis=1)
        self.more_outputs.append(self.node("MatMul", pooled, self.weight(self.channels, 2)))

    def head(self, kind: str, classes: int = 5) -> None:
        features = self.channels * self.size * self.size
        if kind == "flatten":
            flat = self.node("Flatten", self.value, axis=1)
        elif kind == "computed":
            rows = self.node("Gather", self.node("Shape", self.value), self.constant([0]))
            shape = self.node("Concat", rows, self.constant([-1]), axis=0)
            flat = self.node("Reshape", self.value, shape)
        elif kind == "mean":
            flat, features = (
                self.node("ReduceMean", self.value, axes=[2, 3], keepdims=0),
                self.channels,
            )
        elif kind == "reshape":
            flat = self.node("Reshape", self.value, self.constant([-1, features]))
        else:
            pooled = self.node("GlobalAveragePool", self.value)
            flat, features = self.node("Flatten", pooled, axis=1), self.channels
        hidden = self.node("Gemm", flat, self.weight(7, features), self.weight(7), transB=1)
        hidden = self.node("Relu", hidden)
        product = self.node("MatMul", hidden, self.weight(7, classes))
        self.value = self.node("Add", product, self.weight(classes))

    def model(self) -> ir.Model:
        graph = helper.make_graph(
            self.nodes,
            "drawn",
            [
                helper.make_tensor_value_info("x", TensorProto.FLOAT, self.input_shape),
                *self.more_inputs,
            ],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
                for name in (self.value, *self.more_outputs)
            ],
            self.initializers,
        )
        proto = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8
        )
        proto = onnx.shape_inference.infer_shapes(proto)
        onnx.checker.check_model(proto)
        return ir.from_proto(proto)


BLOCKS = (
    "conv",
    "grouped",
    "depthwise",
    "batchnorm",
    "residual",
    "branch",
    "split",
    "gate",
    "shuffle",
    "shared",
    "pool",
    "part",
    "turned",
    "picked",
    "centred",
    "upsampled",
    "activation",
)
# Beside these, what torch, int8 or one input's feed aren't tested with here.
EVERY_BLOCK = (
    *BLOCKS,
    "strided",
    "transposed",
    "averaged",
    "padded",
    "channels_last",
    "normalised",
    "attention",
    "sized",
    "statistic",
    "recurrent",
    "another_input",
    "another_output",
)


STATISTICS = ("rms", "layer", "sums", "inverse", "l2", "map", "instance")


@st.composite
def begun(draw: st.DrawFn, blocks: tuple[str, ...] = BLOCKS) -> Builder:
    """Draw a small network of some blocks, to go on with."""
    b = Builder(
        draw(st.integers(0, 2**16)), draw(st.integers(1, 3)), draw(st.sampled_from([4, 5, 6]))
    )
    b.conv(draw(st.integers(2, 9)), bias=draw(st.booleans()))
    for block in draw(st.lists(st.sampled_from(blocks), max_size=6)):
        if block == "conv":
            b.conv(draw(st.integers(1, 9)), draw(st.sampled_from([1, 3])), bias=draw(st.booleans()))
        elif block == "grouped":
            b.conv(4 * draw(st.integers(1, 3)), kernel=1)
            b.conv(2 * draw(st.integers(1, 4)), group=2)
        elif block == "depthwise":
            multiplier = draw(st.sampled_from([1, 2]))
            b.conv(b.channels * multiplier, group=b.channels)
        elif block == "activation":
            b.activation(draw(st.sampled_from(["Relu", "Sigmoid", "Tanh", "PRelu", "LeakyRelu"])))
        elif block == "statistic":
            b.statistic(draw(st.sampled_from(STATISTICS)))
        else:
            getattr(b, block)()
    return b


@st.composite
def networks(draw: st.DrawFn, blocks: tuple[str, ...] = BLOCKS) -> ir.Model:
    """Draw a small network of some blocks with one head."""
    b = draw(begun(blocks))
    b.head(draw(st.sampled_from(["flatten", "reshape", "pool", "computed", "mean"])))
    return b.model()
