"""Weights are found by what they do, not by where they are kept."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from onnxadmm import ops

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'
RNG = np.random.default_rng(0)


def parsed(text, **tensors):
    """Return a graph from its text, with these arrays as initializers."""
    model = onnx.parser.parse_model(f"{HEADER}\n{text}")
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in tensors.items())
    return ir.from_proto(model)


def drawn(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


# Where the cells of a grid begin, and what they are from there.
CELLS = (np.indices((4, 4)).sum(0) % 2 + 0.5).astype(np.float32)


def names(model):
    return set(ops.weights(model))


@pytest.mark.parametrize(
    "between",
    [
        "v = Identity(w)",
        "v = Transpose<perm = [1, 0]>(w)",
        "h = Cast<to = 10>(w) v = Cast<to = 1>(h)",
        "v = Mul(w, g)",
        "n = ReduceL2<keepdims = 1>(w) u = Div(w, n) v = Mul(u, g)",
        "v = Slice(w, start, end)",
    ],
)
def test_a_weight_is_found_behind_what_no_run_changes(between):
    model = parsed(
        f"g (float[N,4] x) => (float[N,4] y) {{ {between} y = MatMul(x, v) }}",
        w=drawn(4, 4),
        g=drawn(4, 1),
        start=np.array([0]),
        end=np.array([4]),
    )
    assert "w" in names(model)
    assert not {"start", "end"} & names(model)
    product = next(n for n in model.graph if n.op_type == "MatMul")
    assert "w" in ops.layer_weights(model)[product.name or product.outputs[0].name]


@pytest.mark.parametrize(
    ("node", "tensor", "why"),
    [
        ("y = Pow(x, c)", drawn(4), "no weight"),
        ("y = Clip(x, low, high)", drawn(4), "no node reads it"),
        ("y = Div(x, c)", drawn(4), "divisor"),
        ("r = Relu(x) y = Mul(r, c)", np.float32([0.5]), "single number"),
        ("y = Sub(x, c)", drawn(4), "rescales an input"),
        ("r = Relu(x) y = Add(r, c)", np.float32([0, -np.inf, 0, 0]), "mask"),
        ("r = Relu(x) y = Add(r, c)", np.float32([0, -10000, 0, 0]), "mask"),
        ("r = Relu(x) y = Mul(r, c)", np.tril(np.ones((4, 4), np.float32)), "mask"),
        (
            "r = Relu(x) y = Mul(r, c)",
            np.cos(np.outer(np.arange(4), [1, 0.1, 0.01, 0.001])).astype(np.float32),
            "sines or cosines",
        ),
        ("y = BatchNormalization(x, one, one, c, one)", drawn(4), "statistics"),
        ("r = Relu(x) y = Concat<axis = 0>(r, c)", np.zeros((2, 4), np.float32), "padding"),
        # A detector's anchors, and the steps of its grids.
        ("r = Relu(x) s = Add(r, c) y = Sigmoid(s)", CELLS, "after the last layer"),
        ("r = Relu(x) y = Mul(r, c)", 16 * CELLS, "after the last layer"),
        ("r = Relu(x) y = Mul(r, c)", np.float32([8, 8, 16, 32]), "after the last layer"),
    ],
)
def test_what_was_not_learnt_is_no_weight_and_says_why(node, tensor, why):
    model = parsed(
        f"g (float[4,4] x) => (float[N,M] y) {{ {node} }}",
        c=tensor,
        one=np.ones(4, np.float32),
        low=np.float32(0),
        high=np.float32(6),
    )
    role = ops.roles(model)["c"]
    assert not role.weight
    assert why in role.why


@pytest.mark.parametrize(
    ("node", "tensor"),
    [
        ("r = Relu(x) y = Add(r, c)", drawn(4)),
        ("r = Relu(x) y = Mul(r, c)", np.ones(4, np.float32)),
        ("r = MatMul(x, w) y = Add(r, c)", np.float32([0.5])),
        ("y = PRelu(x, c)", np.float32([0.25])),
        ("r = Relu(x) y = Concat<axis = 0>(r, c)", drawn(2, 4)),
        (
            "r = Relu(x) e = Expand(c, wide) y = Concat<axis = 0>(r, e)",
            np.zeros((1, 4), np.float32),
        ),
        ("i = Cast<to = 7>(x) y = Gather(c, i)", drawn(10, 3)),
        ("y = LayerNormalization(x, c)", np.ones(4, np.float32)),
        # Embeddings of places; and a scale before a layer, whatever it holds.
        ("r = Relu(x) s = Add(r, c) y = MatMul(s, w)", CELLS),
        ("r = Relu(x) s = Mul(r, c) y = MatMul(s, w)", np.float32([8, 8, 16, 32])),
        # A head that is no matrix product, and the bias of one for each of several experts.
        ("r = Relu(x) s = Mul(r, c) y = ReduceSum(s)", drawn(4, 4)),
        ("r = Relu(x) y = Add(r, c)", np.zeros((4, 4), np.float32)),
        # A layer may follow in a branch.
        (
            """r = Relu(x) s = Add(r, c) t = ReduceSum<keepdims = 0>(x) f = Cast<to = 9>(t)
            y = If (f) <then_branch = a () => (float[N,M] p) { p = MatMul(s, w) },
            else_branch = b () => (float[N,M] q) { q = Neg(s) }>""",
            CELLS,
        ),
    ],
)
def test_what_was_learnt_is_a_weight(node, tensor):
    model = parsed(
        f"g (float[4,4] x) => (float[N,M] y) {{ {node} }}",
        c=tensor,
        w=drawn(4, 1),
        wide=np.array([1, 4]),
    )
    assert "c" in names(model)


def test_a_frequency_of_positions_is_none_and_the_same_product_of_features_is_one():
    text = """g (int64[1,S] p, float[S,1] x) => (float[S,4] y) {{
        f = Cast<to = 1>(p) t = Transpose<perm = [1, 0]>(f)
        a = MatMul({of}, w) y = Sin(a) }}"""
    assert "w" not in names(parsed(text.format(of="t"), w=drawn(1, 4)))
    assert "w" in names(parsed(text.format(of="x"), w=drawn(1, 4)))


def test_weights_of_branches_are_found_and_two_of_one_name_stay_two():
    model = parsed(
        """g (bool c, float[N,2] x) => (float[N,2] y) { y = If(c) <
            then_branch = t () => (float[N,2] a) <float[2,2] w = {1, 2, 3, 4}> { a = MatMul(x, w) },
            else_branch = e () => (float[N,2] b) <float[2,2] w = {5, 6, 7, 8}> { b = MatMul(x, w) }
        > }"""
    )
    found = ops.weights(model)
    assert set(found) == {"w", "w#2"}
    assert found["w"] is not found["w#2"]


def test_constant_nodes_hold_weights_too():
    model = parsed(
        """g (float[N,2] x) => (float[N,2] y) {
            w = Constant<value = float[2,2] {1, 2, 3, 4}>() y = MatMul(x, w) }"""
    )
    assert names(model) == {"w"}


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_integers_behind_dequantize_linear_are_weights(kind):
    model = parsed(
        "g (float[N,4] x) => (float[N,3] y) { w = DequantizeLinear<axis = 1>(q, s) y = MatMul(x, w) }",
        q=np.arange(12).reshape(4, 3).astype(kind),
        s=np.float32([0.1, 0.2, 0.3]),
    )
    found = ops.roles(model)
    assert names(model) == {"q"}
    assert found["q"].dequantize is not None


def test_integers_that_two_scales_read_differently_are_none():
    model = parsed(
        """g (float[N,3] x) => (float[N,3] y) { w = DequantizeLinear(q, s) v = DequantizeLinear(q, t)
            h = MatMul(x, w) y = MatMul(h, v) }""",
        q=np.arange(9).reshape(3, 3).astype(np.int8),
        s=np.float32(0.1),
        t=np.float32(0.2),
    )
    assert not names(model)
