"""What exporters make of the same small network: each form imports, loses its channels, and is proven."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

import onnxadmm
from onnxadmm.bench import open_session
from onnxadmm.graph import compare_outputs, probe, random_inputs
from onnxadmm.modules import import_model

HALF = {
    "version": 1,
    "prune": [{"structure": "channel", "amount": 0.5}],
    "benchmark": {"providers": []},
}
IMAGE = "float[N, 3, 8, 8] x"
# Weights by name; a graph gets those that it reads and doesn't compute.
SHAPES = {
    "w1": (8, 3, 3, 3),
    "b1": (8,),
    "w2": (6, 8, 3, 3),
    "b2": (6,),
    "b2c": (1, 6, 1, 1),
    "w3": (6, 6, 3, 3),
    "gate": (6, 6, 1, 1),
    "head": (10, 6),
    "headT": (6, 10),
    "flat": (10, 6 * 64),
    "flatT": (6 * 64, 10),
    "bias": (10,),
    "scale": (8,),
    "offset": (8,),
    "mean": (8,),
    "var": (8,),
}
CONVS = """
    a = Conv <pads=[1,1,1,1]> (x, w1, b1)
    r = Relu (a)
    c = Conv <pads=[1,1,1,1]> (r, w2, b2)
    f = Relu (c)
"""
POOLED = """
    p = GlobalAveragePool (f)
    q = Flatten <axis=1> (p)
    y = Gemm <transB=1> (q, head, bias)
"""
HABITS = {
    "plain": CONVS + POOLED,
    "NHWC, each convolution between Transposes": """
        t = Transpose <perm=[0,3,1,2]> (x)
        a = Conv <pads=[1,1,1,1]> (t, w1)
        u = Transpose <perm=[0,2,3,1]> (a)
        v = Add (u, b1)
        r = Relu (v)
        s = Transpose <perm=[0,3,1,2]> (r)
        c = Conv <pads=[1,1,1,1]> (s, w2)
        d = Transpose <perm=[0,2,3,1]> (c)
        e = Add (d, b2)
        f = Relu (e)
        p = ReduceMean <keepdims=0> (f, plane)
        m = MatMul (p, headT)
        y = Add (m, bias)
    """,
    "NHWC, flattened by a constant Reshape": """
        t = Transpose <perm=[0,3,1,2]> (x)
        a = Conv <pads=[1,1,1,1]> (t, w1, b1)
        r = Relu (a)
        c = Conv <pads=[1,1,1,1]> (r, w2, b2)
        d = Transpose <perm=[0,2,3,1]> (c)
        e = Reshape (d, rows)
        m = MatMul (e, flatT)
        y = Add (m, bias)
    """,
    "flattened by a constant Reshape": CONVS
    + "e = Reshape (f, rows) \n y = Gemm <transB=1> (e, flat, bias)",
    "flattened by Flatten, then MatMul": CONVS
    + "e = Flatten (f) \n m = MatMul (e, flatT) \n y = Add (m, bias)",
    "view(x.size(0), -1) as Shape, Gather, Concat": CONVS
    + """
        s = Shape (f)
        n = Gather <axis=0> (s, zero)
        k = Unsqueeze (n, first)
        z = Concat <axis=0> (k, rest)
        e = Reshape (f, z)
        y = Gemm <transB=1> (e, flat, bias)
    """,
    "BatchNormalization not folded": """
        a = Conv <pads=[1,1,1,1]> (x, w1)
        n = BatchNormalization (a, scale, offset, mean, var)
        r = Relu (n)
        c = Conv <pads=[1,1,1,1]> (r, w2, b2)
        f = Relu (c)
    """
    + POOLED,
    "weights behind Identity, Transpose and Cast": """
        i = Identity (w1)
        a = Conv <pads=[1,1,1,1]> (x, i, b1)
        r = Relu (a)
        k = Cast <to=1> (w2)
        j = Identity (b2)
        c = Conv <pads=[1,1,1,1]> (r, k, j)
        f = Relu (c)
        p = GlobalAveragePool (f)
        q = Flatten <axis=1> (p)
        h = Transpose <perm=[1,0]> (head)
        m = MatMul (q, h)
        y = Add (m, bias)
    """,
    "one weight read by two layers": CONVS
    + """
        g = Conv <pads=[1,1,1,1]> (f, w3)
        h = Relu (g)
        i = Conv <pads=[1,1,1,1]> (h, w3)
        j = Add (i, f)
        p = GlobalAveragePool (j)
        q = Flatten <axis=1> (p)
        y = Gemm <transB=1> (q, head, bias)
    """,
    "Paddle's biases and activations spelled out": """
        a = Conv <pads=[1,1,1,1]> (x, w1, b1)
        o = Add (a, three)
        k = Clip (o, low, six)
        l = Mul (a, k)
        r = Div (l, six)
        c = Conv <pads=[1,1,1,1]> (r, w2)
        e = Add (c, b2c)
        s = GlobalAveragePool (e)
        t = Conv (s, gate)
        u = HardSigmoid <alpha=0.2, beta=0.5> (t)
        f = Mul (e, u)
        p = GlobalAveragePool (f)
        q = Squeeze (p, plane23)
        m = MatMul (q, headT)
        y = Add (m, bias)
    """,
}
CONSTANTS = {
    "plane": np.array([1, 2], np.int64),
    "plane23": np.array([2, 3], np.int64),
    "rows": np.array([-1, 384], np.int64),
    "zero": np.array(0, np.int64),
    "first": np.array([0], np.int64),
    "rest": np.array([-1], np.int64),
    "from0": np.array([0], np.int64),
    "to1": np.array([1], np.int64),
    "from1": np.array([1], np.int64),
    "to2": np.array([2], np.int64),
    "to4": np.array([4], np.int64),
    "three": np.array(3, np.float32),
    "low": np.array(0, np.float32),
    "six": np.array(6, np.float32),
}


def written(body: str, *, image: str = IMAGE, opset: int = 18, held: str = "initializers"):
    """Return the model of a graph in ONNX text, with random weights."""
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> habit ({image}) => (float[N, 10] y)'
        f"{{ {body} }}"
    )
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    computed = {name for n in proto.graph.node for name in n.output} | {"x"}
    read = [name for n in proto.graph.node for name in n.input if name and name not in computed]
    for name in dict.fromkeys(read):
        if name in CONSTANTS:
            content = CONSTANTS[name]
        elif name == "var":
            content = rng.uniform(0.5, 2, SHAPES[name]).astype(np.float32)
        else:
            content = rng.standard_normal(SHAPES[name]).astype(np.float32)
        tensor = numpy_helper.from_array(content, name)
        if held == "initializers":
            proto.graph.initializer.append(tensor)
        else:
            constant = onnx.helper.make_node("Constant", [], [name], name=f"c_{name}", value=tensor)
            proto.graph.node.insert(0, constant)
    return proto


def check(proto, *, kept_at_most: float) -> None:
    """The torch module computes what ONNX Runtime does, and half of every class goes, proven."""
    model = ir.from_proto(proto)
    imported = import_model(model, probe(model))
    imported.module.eval()
    session = open_session(proto.SerializeToString(), name="the original")
    for batch in (1, 3):
        shapes = {"x": [batch, *(8 if isinstance(d, str) else d for d in dims(proto)[1:])]}
        inputs = random_inputs(model, shapes, np.random.default_rng(batch))
        with torch.inference_mode():
            got = imported.module(torch.from_numpy(inputs["x"]))
        assert compare_outputs(session.run(None, inputs), [g.numpy() for g in got]) <= 1e-4
    report = onnxadmm.compress(proto, HALF).report
    assert report.verification.cut_vs_masked_max_error <= 1e-5
    assert {c.kept for c in report.channels if c.size in (6, 8)} <= {3, 4}
    assert report.compressed.parameters <= kept_at_most * report.original.parameters


def dims(proto) -> list:
    shape = proto.graph.input[0].type.tensor_type.shape
    return [d.dim_param or d.dim_value for d in shape.dim]


@pytest.mark.parametrize("habit", HABITS)
def test_each_habit_imports_and_is_cut(habit):
    nhwc = "float[N, 8, 8, 3] x"
    check(
        written(HABITS[habit], image=nhwc if habit.startswith("NHWC") else IMAGE), kept_at_most=0.55
    )


def test_weights_in_constant_nodes():
    check(written(HABITS["plain"], held="Constant nodes"), kept_at_most=0.55)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 15, 17, 19, 21, 23, 25, 26])
def test_every_opset(opset):
    body = HABITS["BatchNormalization not folded"]
    check(written(body, opset=opset), kept_at_most=0.55)


def test_open_heights_and_widths():
    sized = (
        CONVS
        + """
        h = MaxPool <kernel_shape=[2,2], strides=[2,2]> (f)
        s = Shape (f)
        l = Shape (h)
        n = Slice (l, from0, to1, first)
        k = Slice (s, from1, to4, first)
        w = Slice (k, from1, to4, first)
        o = Slice (l, from1, to2, first)
        z = Concat <axis=0> (n, o, w)
        u = Resize <mode="nearest"> (h, , , z)
        j = Add (u, f)
        p = GlobalAveragePool (j)
        q = Flatten <axis=1> (p)
        y = Gemm <transB=1> (q, head, bias)
    """
    )
    check(written(sized, image="float[N, 3, H, W] x"), kept_at_most=0.55)


@pytest.mark.parametrize("opset", [9, 11, 13, 18])
@pytest.mark.parametrize("used", ["first", "both"])
def test_equal_parts_without_sizes_become_unequal_ones(opset, used):
    """A policy splits its last layer into mean and deviation, and reads the mean alone."""
    count = ", num_outputs = 2" if opset >= 18 else ""
    rest = "m" if used == "first" else "s"
    text = (
        f'<ir_version: 8, opset_import: ["": {opset}]> policy (float[N, 6] x) => (float[N, 4] y) '
        f"{{ h = MatMul(x, a) r = Relu(h) p = MatMul(r, b) m, s = Split <axis = -1{count}> (p) "
        f"t = Tanh(m) u = Concat <axis = -1> (t, {rest}) y = MatMul(u, c) }}"
    )
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in {"a": (6, 16), "b": (16, 10), "c": (10, 4)}.items():
        content = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(content, name))
    result = onnxadmm.compress(proto, HALF)
    assert result.report.ratios.parameters > 1.8
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
