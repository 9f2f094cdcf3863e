"""The proof of drawn networks that decide in the end: right cuts pass, and no cut with one thing wrong does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from graphs import BLOCKS, Builder, begun
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from onnxadmm import ops
from onnxadmm.bench import open_session, run
from onnxadmm.channels import classify, dead_labels, label
from onnxadmm.compact import TOLERANCE, cut_channels, mask_channels, prove
from onnxadmm.errors import VerificationError
from onnxadmm.graph import compare_outputs, constant_of, model_bytes, probe, showing
from onnxadmm.graph.constants import set_constant

CLASSES = 8


def plain(b: Builder, v: str) -> str:
    return v


def sort(b: Builder, v: str) -> str:
    best, index = b.node("TopK", v, b.constant([3]), outputs=2)
    return b.node("Add", best, b.node("GatherElements", b.node("Neg", v), index, axis=1))


def choose(b: Builder, v: str) -> str:
    return b.node("Cast", b.node("ArgMax", v, axis=1), to=TensorProto.FLOAT)


def find_boxes(b: Builder, v: str) -> str:
    boxes = b.node("Reshape", v, b.constant([0, 2, 4]))
    scores = b.node("ReduceSum", boxes, b.constant([2]), keepdims=0)
    scores = b.node("Reshape", scores, b.constant([0, 1, 2]))
    bounds = [b.constant(5), b.constant(0.3, np.float32), b.constant(-100.0, np.float32)]
    found = b.node("NonMaxSuppression", boxes, scores, *bounds)
    return b.node("Cast", found, to=TensorProto.FLOAT)


def saturate(b: Builder, v: str) -> str:
    return b.node("Softmax", b.node("Mul", v, b.constant(50.0, np.float32)), axis=1)


def gate(b: Builder, v: str) -> str:
    return b.node("Sigmoid", v)


def centre(b: Builder, v: str) -> str:
    centred = b.node("Sub", v, b.node("ReduceMean", v, axes=[1]))
    b.more_outputs.append(b.node("ReduceMean", centred, axes=[1]))
    return centred


def level(b: Builder, v: str) -> str:
    far, least = b.constant(300.0, np.float32), b.constant(1e-6, np.float32)
    near = b.node("Sub", b.node("Add", v, far), far)
    size = b.node("Log", b.node("Add", b.node("Abs", near), least))
    return b.node("Mul", v, b.node("Floor", size))


TAILS = (plain, sort, choose, find_boxes, saturate, gate, centre, level)


def change(draw, cut: ir.Model, carrying: list[str], how: str) -> None:
    """Change one tensor that carries channels: two slices change places, or all is a little larger."""
    held = {n: c for n, v in ops.held(cut).items() if (c := constant_of(v)) is not None}
    name = draw(st.sampled_from([n for n in held if n in carrying and held[n].size > 1]))
    content = np.array(held[name])
    if how == "larger":
        content *= np.float32(1.001)
    else:
        axis = draw(st.sampled_from([a for a, n in enumerate(content.shape) if n > 1]))
        first, second = draw(
            st.lists(st.integers(0, content.shape[axis] - 1), min_size=2, max_size=2, unique=True)
        )
        order = np.arange(content.shape[axis])
        order[[first, second]] = second, first
        content = content.take(order, axis)
    set_constant(ops.held(cut)[name], content)


@settings(max_examples=24, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_right_cuts_pass_and_wrong_ones_do_not(data):
    b = data.draw(begun(BLOCKS))
    b.head("pool", CLASSES)
    tail = data.draw(st.sampled_from(TAILS))
    if tail is gate:
        # Far out, where few bits of a sigmoid are left.
        b.value = b.node("Sub", b.value, b.constant(15.0, np.float32))
    source = b.value
    b.value = tail(b, source)
    model = b.model()
    seen = probe(model)
    labels = label(model, seen)
    classes = classify(labels, seen)
    kept = {c.name: np.arange(c.size) % 2 == 0 for c in classes if not c.fixed}
    dead = dead_labels(classes, kept)
    masked, right = mask_channels(model, labels, dead), cut_channels(model, labels, seen, dead)
    rng = np.random.default_rng(0)
    shape = [2, *b.input_shape[1:]]
    feeds = [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(2)]
    prove(masked, right, feeds)
    how = data.draw(st.sampled_from(["other channels", "another order", "larger"]))
    wrong = right.clone()
    if how == "other channels":
        even = [n for n, mask in kept.items() if mask.size % 2 == 0]
        if not even:
            return
        name = data.draw(st.sampled_from(even))
        others = dead_labels(classes, {**kept, name: ~kept[name]})
        wrong = cut_channels(model, labels, seen, others)
    else:
        change(data.draw, wrong, labels.weights, how)
    try:
        prove(masked, wrong, feeds)
    except VerificationError:
        return
    # It passes only where it computes the same, or the same to decide upon.
    names = [o.name for o in model.graph.outputs]
    apart = {}
    for wanted in (names, [source]):
        sessions = [
            open_session(model_bytes(showing(m, wanted)), name="it") for m in (masked, wrong)
        ]
        apart[wanted[0]] = max(
            compare_outputs(*(run(s, wanted, feed) for s in sessions)) for feed in feeds
        )
    assert min(apart.values()) <= TOLERANCE, apart
