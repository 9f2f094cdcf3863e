"""A graph that takes one batch size is trained on any number of samples."""

from __future__ import annotations

import copy

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
import torch

from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import probe
from onnxadmm.modules import for_any_batch, import_model

SPREAD = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)


def imported(signature, body, held=""):
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[{signature}) {held} {{ {body} }}'
    model = ir.from_proto(onnx.parser.parse_model(text))
    return import_model(model, probe(model))


def opened(found, rows, *, output=0, axis=0):
    return for_any_batch(
        found,
        rows,
        output=output,
        axis=axis,
        sample=lambda n: {"x": SPREAD[np.arange(n) % len(SPREAD)]},
    )


REFUSING = {
    "one": (
        "1, 6] x) => (float[1, 2] y",
        1,
        "s = Reshape(x, a) r = ReduceSum(s, two) y = Reshape(r, b)",
        0,
    ),
    "two": (
        "2, 6] x) => (float[2, 2] y",
        2,
        "s = Reshape(x, c) r = ReduceSum(s, two) y = Squeeze(r, two)",
        0,
    ),
    "time first": (
        "2, 6] x) => (float[2, 2] y",
        2,
        "s = Reshape(x, c) r = ReduceSum(s, two) q = Squeeze(r, two) y = Transpose <perm = [1, 0]> (q)",
        1,
    ),
    # It takes more samples, and mixes them.
    "mixing": ("2, 6] x) => (float[2, 6] y", 2, "m = ReduceMean <axes = [0]> (x) y = Sub(x, m)", 0),
    # It takes them, and reads the first ones only.
    "reading": ("2, 6] x) => (float[2, 6] y", 2, "y = Slice(x, zero, second, zero)", 0),
}
HELD = (
    "<int64[3] a = {1, 2, 3}, int64[2] b = {1, 2}, int64[3] c = {2, 2, 3}, int64[1] two = {2}, int64[1] zero = {0}, "
    "int64[1] second = {2}>"
)


@pytest.mark.parametrize("kind", REFUSING)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_is_called_in_pieces(kind, count):
    signature, rows, body, axis = REFUSING[kind]
    found = imported(signature, body, HELD)
    whole = opened(found, rows, axis=axis)
    assert whole.in_pieces is not None
    x = torch.from_numpy(SPREAD[:count])
    got = whole.on_samples(x)[0].movedim(axis, 0)
    assert len(got) == count
    # The last piece is filled up with copies of the last sample.
    filled = torch.cat([x, x[-1:].expand(-count % rows, 6)])
    for k in range(count):
        start = k // rows * rows
        expected = found.module(filled[start : start + rows])[0].movedim(axis, 0)[k - start]
        assert torch.equal(got[k], expected)


def test_what_takes_any_number_is_called_at_once():
    found = imported("1, 6] x) => (float[1, 6] y", "h = Exp(x) y = Flatten(h)")
    assert opened(found, 1).in_pieces is None


def test_the_output_that_is_asked_for_is_joined_and_learns():
    found = imported(
        "1, 6] x) => (float[] z, float[1, 2] y",
        "z = ReduceSum <keepdims = 0> (x) s = Reshape(x, a) h = MatMul(s, w) r = ReduceSum(h, two) y = Reshape(r, b)",
        HELD[:-1] + ", float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}>",
    )
    whole = opened(found, 1, output=1)
    first, second = copy.deepcopy(whole.in_pieces)(torch.from_numpy(SPREAD[:4]))
    assert first is None
    assert second.shape == (4, 2)
    whole.on_samples(torch.from_numpy(SPREAD))[1].sum().backward()
    assert found.binding["w"].grad.abs().sum() > 0
    with pytest.raises(UnsupportedError, match=r"no axis of samples.*objective.output"):
        opened(found, 1, output=0)
