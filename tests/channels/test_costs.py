"""What a channel costs is what the graph saves when it goes."""

from __future__ import annotations

import numpy as np
from graphs import EVERY_BLOCK, Builder, networks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cutting import classes_of

from onnxadmm.channels import channel_macs, dead_labels, macs_left, parameters_left
from onnxadmm.compact import account, cut_channels
from onnxadmm.graph import probe


def saved(model, seen, labels, classes, c):
    """Return (parameters, MACs) that go when one channel is cut for real."""
    keep = {c.name: np.arange(c.size) > 0}
    cut = cut_channels(model, labels, seen, dead_labels(classes, keep))
    before, after = account(model, seen), account(cut, probe(cut))
    return before.parameters - after.parameters, before.macs - after.macs


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=networks(EVERY_BLOCK), data=st.data())
def test_macs_of_a_channel_are_what_cutting_it_saves(model, data):
    seen, labels, found = classes_of(model)
    classes = list(found.values())
    free = [c for c in classes if not c.fixed and c.size > 1]
    macs = channel_macs(model, labels, seen, classes)
    if free:
        c = data.draw(st.sampled_from(free))
        assert saved(model, seen, labels, classes, c)[1] == macs[c.name]


def test_products_of_activations_count():
    b = Builder(0, 3, 4)
    b.conv(6)
    rows = b.node("Reshape", b.value, b.constant([0, 6, 16]))
    pairs = b.node("MatMul", b.node("Transpose", rows, perm=[0, 2, 1]), rows)
    b.value = b.node("ReduceMean", pairs, axes=[2], keepdims=0)
    model = b.model()
    seen, labels, found = classes_of(model)
    (c,) = [c for c in found.values() if not c.fixed]
    macs = channel_macs(model, labels, seen, list(found.values()))
    assert macs[c.name] == 16 * 3 * 9 + 16 * 16
    assert saved(model, seen, labels, list(found.values()), c) == (3 * 9 + 1, macs[c.name])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=networks(), data=st.data())
def test_what_is_left_of_many_classes_is_what_cutting_them_leaves(model, data):
    seen, labels, found = classes_of(model)
    free = [c for c in found.values() if not c.fixed and c.size > 1]
    if not free:
        return
    kept = [data.draw(st.integers(1, c.size)) for c in free]
    keep = {c.name: np.arange(c.size) < k for c, k in zip(free, kept, strict=True)}
    cut = cut_channels(model, labels, seen, dead_labels(list(found.values()), keep))
    before, after = account(model, seen), account(cut, probe(cut))
    whole = [c.size for c in free]
    macs = macs_left(model, labels, seen, free)
    assert macs(whole) - macs(kept) == before.macs - after.macs
    parameters = parameters_left(free, seen)
    assert parameters(whole) - parameters(kept) == before.parameters - after.parameters
