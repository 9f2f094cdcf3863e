"""If, Loop and Scan: subgraphs run as in ONNX Runtime, and the weights that they hold train and come back."""

from __future__ import annotations

import copy
import time

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from onnxadmm.bench import open_session
from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import compare_outputs, model_bytes, probe
from onnxadmm.modules import deadline, import_model, write_back

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
BRANCHES = (
    HEAD
    + """
g (float[N, 3] x) => (float[N, 4] y) {
    zero = Constant<value = float {0.0}>()
    total = ReduceSum<keepdims = 0>(x)
    positive = Greater(total, zero)
    y = If(positive) <
        then_branch = a () => (float[N, 4] p) { p = MatMul(x, w) },
        else_branch = b () => (float[N, 4] q) { m = MatMul(x, v)  q = Add(m, u) }
    >
}"""
)
LOOP = (
    HEAD
    + """
g (float[N, 3] x) => (float[N, 3] last, float[K, N, 3] all) {
    times = Constant<value = int64 {3}>()
    last, all = Loop(times, , x) <
        body = b (int64 i, bool go, float[N, 3] h) => (bool on, float[N, 3] n, float[N, 3] s) {
            on = Identity(go)  m = MatMul(h, w)  n = Tanh(m)  s = Relu(n)
        }
    >
}"""
)
SCAN = (
    HEAD
    + """
g (float[4, 3] x) => (float[3] last, float[4, 3] all) {
    start = Constant<value = float[3] {0.1, 0.2, 0.3}>()
    last, all = Scan(start, x) <
        num_scan_inputs = 1, scan_input_directions = [1],
        body = b (float[3] h, float[3] row) => (float[3] n, float[3] s) {
            m = MatMul(h, w)  a = Add(m, row)  n = Tanh(a)  s = Neg(n)
        }
    >
}"""
)

# The other branch reads windows that the first inputs that run are too short for.
LONGER = (
    HEAD
    + """
g (float[N, L] x, int64 rate) => (float[N, 1] y) {
    high = Constant<value = int64 {2}>()
    axis = Constant<value = int64[1] {1}>()
    fast = Equal(rate, high)
    y = If(fast) <
        then_branch = a () => (float[N, 1] p) {
            t = Unsqueeze(x, axis)  m = Conv<strides = [20]>(t, w)  r = ReduceMean<axes = [-1], keepdims = 0>(m)
            p = Identity(r)
        },
        else_branch = b () => (float[N, 1] q) {
            t2 = Unsqueeze(x, axis)  m2 = Conv<strides = [2]>(t2, v)
            r2 = ReduceMean<axes = [-1], keepdims = 0>(m2)  q = Identity(r2)
        }
    >
}"""
)
SPLITTING = (
    HEAD
    + """
g (float[N, 4] x) => (float[N, 4] last) {
    times = Constant<value = int64 {2}>()
    last = Loop(times, , x) <
        body = b (int64 i, bool go, float[N, 4] h) => (bool on, float[N, 4] n) {
            on = Identity(go)  m = MatMul(h, w)  left, right = Split<axis = 1>(m)
            a = Sigmoid(left)  c = Tanh(right)  n = Concat<axis = 1>(c, a)
        }
    >
}"""
)


def read(text, outer=(), **inner):
    """Parse a model; tensors of `inner` go into the subgraph that reads them, `outer` into the main graph."""
    proto = onnx.parser.parse_model(text)
    node = next(n for n in proto.graph.node if n.op_type in ("If", "Loop", "Scan"))
    rng = np.random.default_rng(0)
    for name, shape in inner.items():
        tensor = numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        graphs = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        owner = next(g for g in graphs if any(name in n.input for n in g.node))
        (proto.graph if name in outer else owner).initializer.append(tensor)
    return ir.from_proto(proto)


MODELS = {
    "if": (BRANCHES, (), {"w": (3, 4), "v": (3, 4), "u": (4,)}),
    "if-outer": (BRANCHES, ("w",), {"w": (3, 4), "v": (3, 4), "u": (4,)}),
    "loop": (LOOP, (), {"w": (3, 3)}),
    "loop-outer": (LOOP, ("w",), {"w": (3, 3)}),
    "scan": (SCAN, (), {"w": (3, 3)}),
}


@pytest.mark.parametrize("name", MODELS)
def test_subgraphs_run_train_and_come_back(name):
    text, outer, inner = MODELS[name]
    model = read(text, outer, **inner)
    imported = import_model(model, probe(model))
    assert not imported.frozen
    assert set(inner) <= set(imported.binding)
    rows = 4 if name == "scan" else 5
    for sign in (1, -1):
        x = sign * np.abs(np.random.default_rng(1).standard_normal((rows, 3))).astype(np.float32)
        check(model, imported, x)
        outputs = copy.deepcopy(imported.module)(torch.from_numpy(x))
        assert all(torch.isfinite(o).all() for o in outputs)
        sum(o.square().sum() for o in imported.module(torch.from_numpy(x))).backward()
    for weight in inner:
        assert imported.binding[weight].grad.any(), weight
    torch.optim.SGD(imported.module.parameters(), lr=0.01).step()
    write_back(model, imported.weights())
    check(model, imported, x)


def check(model, imported, x):
    expected = open_session(model_bytes(model)).run(list(imported.outputs), {"x": x})
    got = [g.detach().numpy() for g in imported.module(torch.from_numpy(x))]
    assert compare_outputs(expected, got) < 1e-5


def test_a_branch_that_the_first_inputs_are_too_short_for_is_built_all_the_same():
    model = read(LONGER, (), w=(1, 1, 40), v=(1, 1, 4))
    imported = import_model(model, probe(model))
    assert not imported.frozen
    session = open_session(model_bytes(model))
    for length, rate in ((64, 1), (64, 2), (81, 2)):
        x = np.random.default_rng(1).standard_normal((3, length)).astype(np.float32)
        feed = {"x": x, "rate": np.array(rate, np.int64)}
        got = imported.module(*(torch.from_numpy(feed[n]) for n in imported.inputs))
        assert compare_outputs(session.run(None, feed), [g.detach().numpy() for g in got]) < 1e-5


def test_equal_parts_are_split_inside_a_loop():
    model = read(SPLITTING, (), w=(4, 4))
    imported = import_model(model, probe(model))
    assert not imported.frozen
    check(model, imported, np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32))


# How often depends on the inputs; ONNX Runtime is fast at it.
SUMMING = (
    HEAD
    + """
g (float[N, 3] x) => (float[N, 3] y) {
    top = ReduceMax<keepdims = 0>(x)
    times = Cast<to = 7>(top)
    y = Loop(times, , x) <
        body = b (int64 i, bool go, float[N, 3] h) => (bool on, float[N, 3] n) {
            on = Identity(go)  s = Tanh(h)  n = Mul(s, w)
        }
    >
}"""
)


def test_a_loop_that_goes_on_for_ever_is_stopped(monkeypatch):
    model = read(SUMMING, w=(1, 3))
    found = import_model(model, probe(model))
    monkeypatch.setattr(deadline, "BASE_S", 0.2)
    few = torch.full((1, 3), 5.0)
    (y,) = found.module(few)
    started = time.monotonic()
    with pytest.raises(UnsupportedError, match="a loop was stopped after 0 s in torch") as e:
        found.module(torch.full((1, 3), 1e12))
    assert time.monotonic() - started < 20
    assert e.value.exit_code == 3
    # The next pass has all of its time.
    assert torch.equal(found.module(few)[0], y)
    with pytest.raises(UnsupportedError, match="a loop was stopped"):
        deadline.copied(found.module)(torch.full((1, 3), 1e12))
