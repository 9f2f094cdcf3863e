"""Batches are what the steps say, in the model's dtype, and the caller's own."""

from __future__ import annotations

import gzip
import pickle  # noqa: TID251  (how data sets reach worker processes)
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxadmm.data import Dataset, InputInfo, fingerprint, image_inputs
from onnxadmm.data.preparing import Preparation, prepare
from onnxadmm.errors import SpecError
from onnxadmm.spec import Augment, Normalize, Preprocess

scales = st.floats(1e-3, 1e3).map(lambda v: Preprocess(scale=v))


def normalizes(channels):
    lists = st.tuples(
        st.lists(st.floats(-100, 100), min_size=channels, max_size=channels),
        st.lists(st.floats(1e-2, 100), min_size=channels, max_size=channels),
    )
    return lists.map(lambda p: Preprocess(normalize=Normalize(mean=tuple(p[0]), std=tuple(p[1]))))


@settings(max_examples=80, deadline=None)
@given(
    steps=st.lists(st.one_of(scales, normalizes(1), normalizes(3)), min_size=1, max_size=4),
    dtype=st.sampled_from(["?", "u1", "i2", "i4", "f2", "f4", "f8"]),
    target=st.sampled_from(["f4", "f8"]),
    sample=st.sampled_from([(3, 2, 2), (2, 2, 3), (3, 2, 3)]),
)
def test_fused_steps_equal_single_steps(steps, dtype, target, sample):
    stored = np.random.default_rng(1).integers(0, 200, (4, *sample)).astype(dtype)
    column = (-1, 1, 1) if sample[0] == 3 else (-1,)
    expected, size = stored.astype(np.float64), np.float64(200)
    for step in steps:
        if step.scale is not None:
            expected = expected * step.scale
            size = size * step.scale
        else:
            mean, std = (
                np.array(v).reshape(column) for v in (step.normalize.mean, step.normalize.std)
            )
            expected = (expected - mean) / std
            size = (size + np.abs(mean).max()) / std.min()
    prepared = prepare(
        steps, InputInfo("x", np.dtype(target), ("N", *sample)), stored.dtype, sample
    )
    got = prepared(stored)
    assert got.dtype == target
    # the error is that of a few roundings of the largest number on the way
    epsilon = np.finfo(prepared.working if target == "f8" else "f4").eps
    assert np.abs(got - expected).max() <= 4 * epsilon * size


def test_digits_survive_far_from_zero():
    stored = np.array([[1_700_000_000.25], [1_700_000_000.5]])
    step = Preprocess(normalize=Normalize(mean=(1.7e9,), std=(0.25,)))
    prepared = prepare([step], InputInfo("t", np.dtype("f4"), ("N", 1)), stored.dtype, (1,))
    np.testing.assert_array_equal(prepared(stored), [[1.0], [2.0]])


def test_steps_go_to_float_inputs_or_to_those_they_name(tmp_path, load):
    ones = np.ones((4, 2), np.float32)
    np.savez(tmp_path / "data.npz", a=ones, b=ones, ids=ones.astype("i8"), y=np.zeros(4, int))
    inputs = [
        InputInfo("a", np.dtype("f4"), ("N", 2)),
        InputInfo("b", np.dtype("f4"), ("N", 2)),
        InputInfo("ids", np.dtype("i8"), ("N", 2)),
    ]
    files = dict.fromkeys(("a", "b", "ids"), "data.npz")
    steps = [Preprocess(scale=2.0), Preprocess(scale=3.0, inputs=("b",))]
    batch, _ = load(files, inputs=inputs, steps=steps).batch(slice(None))
    assert {name: array.flat[0] for name, array in batch.items()} == {"a": 2, "b": 6, "ids": 1}


@pytest.mark.parametrize("index", [slice(0, 4), np.array([0, 1, 2, 3])])
@pytest.mark.parametrize("steps", [(), (Preprocess(scale=1.0),)])
def test_a_batch_can_be_written_to_without_harm(tmp_path, load, images, *, classes, index, steps):
    np.savez(tmp_path / "data.npz", x=images, y=classes)
    dataset = load(steps=steps)
    batch, labels = dataset.batch(index)
    batch["x"][:] = 0
    labels[:] = 0
    np.testing.assert_array_equal(dataset.inputs["x"], images)
    np.testing.assert_array_equal(dataset.labels, classes)


def test_a_data_set_made_by_hand_hands_out_what_it_holds():
    dataset = Dataset({"x": np.arange(6).reshape(3, 2)}, None, {})
    batch, labels = dataset.batch(np.array([2, 0]))
    assert batch["x"].tolist() == [[4, 5], [0, 1]]
    assert labels is None
    assert len(dataset) == 3


def test_a_data_set_survives_the_way_to_another_process(tmp_path, load, images, classes):
    np.savez(tmp_path / "data.npz", x=images, y=classes)
    dataset = load(steps=[Preprocess(normalize=Normalize(mean=(1.0, 2.0, 3.0), std=(1.0,) * 3))])
    copy = pickle.loads(pickle.dumps(dataset))
    assert fingerprint(copy) == fingerprint(dataset)
    np.testing.assert_array_equal(copy.batch(slice(5))[0]["x"], dataset.batch(slice(5))[0]["x"])


def test_the_fingerprint_follows_the_values_not_the_file(tmp_path, load, images, classes):
    np.savez(tmp_path / "data.npz", x=images, y=classes)
    np.save(tmp_path / "big.npy", np.asfortranarray(images.astype(">f4")))
    start = struct.pack(">HBB4I", 0, 0x0D, 4, *images.shape)
    (tmp_path / "x.idx.gz").write_bytes(gzip.compress(start + images.astype(">f4").tobytes()))
    one = fingerprint(load())
    assert len(one) == 64
    assert fingerprint(load("big.npy")) == one
    assert fingerprint(load("x.idx.gz")) == one


def test_the_fingerprint_sees_every_difference():
    x, y = np.arange(12, dtype=np.float32).reshape(4, 3), np.arange(4)
    other = x.copy()
    other[3, 2] = -1
    variants = [
        Dataset({"x": x}, y, {}),
        Dataset({"x": other}, y, {}),
        Dataset({"x": x}, y[::-1], {}),
        Dataset({"x": x}, None, {}),
        Dataset({"z": x}, y, {}),
        Dataset({"x": x.reshape(4, 3, 1)}, y, {}),
        Dataset({"x": x.view(np.int32)}, y, {}),
        Dataset({"x": x[:3]}, y[:3], {}),
    ]
    assert len({fingerprint(v) for v in variants}) == len(variants)


@pytest.mark.parametrize(
    ("samples", "given", "expected"),
    [
        ((3, 8, 9), {}, (2, 3)),
        ((8, 9, 3), {}, (1, 2)),
        ((3, 8, 4), {}, (2, 3)),
        ((12, 8, 9), {"layout": "NCHW", "inputs": ("x",)}, (2, 3)),
        ((8, 9, 12), {"layout": "NHWC", "inputs": ("x",)}, (1, 2)),
    ],
)
def test_images_are_known_by_their_channels(samples, given, expected):
    data = Dataset({"x": np.zeros((5, *samples), np.float32)}, np.zeros(5, np.int64), {})
    assert image_inputs(Augment(shift=0.1, **given), data) == {"x": expected}


def test_what_the_model_takes_says_what_is_an_image_and_not_what_is_stored():
    taken = Preparation(np.dtype(np.float32), (1, 8, 8), np.dtype(np.float32))
    data = Dataset({"x": np.zeros((5, 64), np.uint8)}, None, {}, {"x": taken})
    assert image_inputs(Augment(flip="both"), data) == {"x": (2, 3)}


@pytest.mark.parametrize(
    ("shapes", "labels", "given", "word"),
    [
        ({"x": (5, 20)}, (5,), {}, "no input of the model is an image"),
        ({"x": (5, 12, 8, 9)}, (5,), {}, "no input of the model is an image"),
        ({"x": (5, 12, 8, 9)}, (5,), {"inputs": ("x",)}, "augment.layout"),
        ({"x": (5, 3, 8, 8)}, (5,), {"inputs": ("y",)}, "no input of the model; it has x"),
        ({"x": (5, 3, 8, 8), "t": (5, 4)}, (5,), {"inputs": ("x", "t")}, "'t' takes samples"),
        ({"x": (5, 3, 8, 8)}, (5, 8, 8), {}, "would not move with their image"),
    ],
)
def test_what_is_no_image_is_not_augmented(shapes, labels, given, word):
    inputs = {n: np.zeros(s, np.float32) for n, s in shapes.items()}
    with pytest.raises(SpecError, match=word):
        image_inputs(Augment(shift=0.1, **given), Dataset(inputs, np.zeros(labels), {}))
