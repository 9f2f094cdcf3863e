"""What the axes of an output are, and what it is behind."""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir
import pytest

from onnxadmm.graph import Layout, output_ending, output_layout

SIGMOID = "p = Sigmoid(x)"


def output(shape, body, opset=17):
    text = (
        f'<ir_version: 8, opset_import: ["": {opset}]> '
        f"g (float[N, 4, 6] x) => (float[{shape}] y) <float one = {{1.0}}> {{ {body} }}"
    )
    return ir.from_proto(onnx.parser.parse_model(text))


@pytest.mark.parametrize(
    ("shape", "body", "layout", "ending"),
    [
        ("N, 4, 6", "y = Relu(x)", Layout(), None),
        ("N, 4, 6", "y = Sigmoid(x)", Layout(), "sigmoid"),
        ("N, 24", "a = Sigmoid(x) y = Flatten(a)", Layout(), "sigmoid"),
        ("N, 4, 6", "y = Softmax <axis = 1> (x)", Layout(0, 1), "softmax"),
        ("N, 4, 6", "a = Softmax(x) y = Identity(a)", Layout(0, 2), "softmax"),
        ("N, 4, 6", "y = LogSoftmax(x)", Layout(0, 2), None),
        # Time first, as recognisers of text have it.
        ("4, N, 6", "a = Transpose <perm = [1, 0, 2]> (x) y = Softmax(a)", Layout(1, 2), "softmax"),
        (
            "6, 4, N",
            "a = Transpose <perm = [2, 1, 0]> (x) y = Softmax <axis = 0> (a)",
            Layout(2, 1),
            "softmax",
        ),
        ("4, unk, 6", "y = Transpose <perm = [1, 0, 2]> (x)", Layout(1), None),
        ("unk, unq, 6", "y = Identity(x)", Layout(), None),
        # A probability beside one less it is a softmax of two; another pair, or another number, is none.
        (
            "N, 8, 6",
            f"{SIGMOID} r = Sub(one, p) y = Concat <axis = 1> (r, p)",
            Layout(0, 1),
            "softmax",
        ),
        (
            "N, 4, 12",
            f"{SIGMOID} c = Cast <to = 1> (p) r = Sub(one, c) y = Concat <axis = -1> (p, r)",
            Layout(0, 2),
            "softmax",
        ),
        ("N, 8, 6", f"{SIGMOID} r = Sub(one, x) y = Concat <axis = 1> (r, p)", Layout(), None),
        ("N, 8, 6", f"{SIGMOID} r = Sub(p, one) y = Concat <axis = 1> (r, p)", Layout(), None),
        ("N, 8, 6", "r = Sub(one, x) y = Concat <axis = 1> (r, x)", Layout(), None),
        # What moved axes, or softmaxed the samples, tells nothing of classes.
        ("N, 6, 4", "a = Softmax(x) y = Transpose <perm = [0, 2, 1]> (a)", Layout(), None),
        ("N, 4, 6", "y = Softmax <axis = 0> (x)", Layout(), None),
    ],
)
def test_axes_and_endings(shape, body, layout, ending):
    model = output(shape, body)
    assert output_layout(model, 0) == layout
    assert output_ending(model, 0) == ending


def test_an_old_softmax_is_over_all_axes_from_its_own_on():
    assert output_layout(output("N, 4, 6", "y = Softmax(x)", opset=11), 0) == Layout()
    last = output("N, 4, 6", "y = Softmax <axis = 2> (x)", opset=11)
    assert output_layout(last, 0) == Layout(0, 2)


@pytest.mark.parametrize(
    ("layout", "shape", "found"),
    [
        (Layout(), (1, 10), (10, 0)),
        (Layout(), (1, 5, 7, 8), (5, 2)),
        (Layout(0, 2), (1, 7, 5), (5, 1)),
        (Layout(1, 2), (7, 1, 5), (5, 1)),
        (Layout(), (3,), (None, 0)),
        (Layout(), (), (None, 0)),
    ],
)
def test_classes_and_places_are_counted_without_the_samples(layout, shape, found):
    assert layout.lengths(shape) == found
