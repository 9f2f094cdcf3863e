"""Data that doesn't fit the model is refused whole, before the first step."""

from __future__ import annotations

import numpy as np
import pytest

from onnxadmm.data import InputInfo
from onnxadmm.errors import DataError, SpecError
from onnxadmm.spec import Normalize, Preprocess

HALF = Preprocess(scale=0.5)


def info(shape, dtype="f4", name="x"):
    return InputInfo(name, np.dtype(dtype), shape)


@pytest.fixture
def save(tmp_path):
    return lambda **members: np.savez(tmp_path / "data.npz", **members)


def test_counts_must_agree(save, load, images, classes):
    save(x=images, y=classes[:-1])
    with pytest.raises(DataError, match=r"11 samples.*12"):
        load(limit=4)
    save(x=images[:0], y=classes[:0])
    with pytest.raises(DataError, match="at least one"):
        load()


@pytest.mark.parametrize(
    ("stored", "model", "seen"),
    [
        ((5, 28, 28), ("N", 1, 28, 28), (5, 1, 28, 28)),
        ((5, 28, 28), (None, 1, "h", None), (5, 1, 28, 28)),
        ((5, 3), ("N", 1, 3, 1), (5, 1, 3, 1)),
        ((5, 1, 4), ("N", 1, "a", 1), (5, 1, 4, 1)),
        ((5,), ("N", 1), (5, 1)),
        ((5,), ("N",), (5,)),
        ((5, 1, 2), (1, 1, 2), (5, 1, 2)),
    ],
)
def test_unit_axes_are_inserted(save, load, stored, model, seen):
    save(x=np.zeros(stored, np.float32), y=np.zeros(5, np.int64))
    dataset = load(inputs=[info(model)])
    assert dataset.inputs["x"].shape == stored
    assert dataset.batch(slice(2, 4))[0]["x"].shape == (2, *seen[1:])


@pytest.mark.parametrize(
    ("stored", "model", "word"),
    [
        ((3, 8, 8), ("N", 3, 8, 8), "batch axis is missing"),
        ((28, 28), ("N", 1, 28, 28), "batch axis is missing"),
        ((5, 8, 8, 3), ("N", 3, 8, 8), "channels come last"),
        ((5, 784), ("N", 1, 28, 28), "shape"),
        ((5, 1, 28, 28), ("N", 28, 28), "shape"),
        ((5, 2), ("N", 3), "shape"),
        ((5, 3), ("N",), "shape"),
        ((5,), (), "batch"),
        ((), ("N",), "batch axis"),
    ],
)
def test_other_shapes_are_refused(save, load, stored, model, word):
    save(x=np.zeros(stored, np.float32), y=np.zeros(stored[:1], np.int64))
    with pytest.raises(DataError, match=word):
        load(inputs=[info(model)])


@pytest.mark.parametrize("dtype", ["u1", "?", "i8", "f8"])
def test_nothing_becomes_float32_silently(save, load, images, classes, dtype):
    save(x=(images > 0).astype(dtype), y=classes)
    with pytest.raises(DataError, match=r"dtype .*preprocess: \[\{scale: "):
        load()
    batch = load(steps=[HALF]).batch(slice(None))[0]["x"]
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch, (images > 0) * np.float32(0.5))


def test_the_advice_for_uint8_is_a_255th(save, load, images, classes):
    save(x=images.astype(np.uint8), y=classes)
    with pytest.raises(DataError, match=r"uint8.*0\.00392156862745098\}"):
        load()


def test_floats_widen_but_never_narrow(save, load, images, classes):
    save(x=images.astype("f2"), y=classes)
    assert load().batch(slice(1))[0]["x"].dtype == np.float32
    save(x=images, y=classes)
    with pytest.raises(DataError, match="float16"):
        load(inputs=[info(("N", 3, 4, 4), "f2")])


def test_integers_change_width_only_while_they_fit(save, load):
    tokens = np.array([[1, 2], [3, 40000], [5, 6]])
    narrow, labels = [info(("N", 2), "i4")], np.zeros(3, np.int64)
    save(x=tokens, y=labels)
    batch = load(inputs=narrow).batch(np.array([1]))[0]["x"]
    assert batch.dtype == np.int32
    assert batch.tolist() == [[3, 40000]]
    with pytest.raises(DataError, match="sample 1 holds 40000"):
        load(inputs=[info(("N", 2), "i2")])
    save(x=np.array([[0, 0], [0, 0], [-7, 0]], np.int8), y=labels)
    with pytest.raises(DataError, match="sample 2 holds -7"):
        load(inputs=[info(("N", 2), "u8")])
    save(x=tokens.astype("f4"), y=labels)
    with pytest.raises(DataError, match="dtype float32"):
        load(inputs=narrow)


def test_bool_inputs_take_bools_only(save, load):
    mask, labels = np.array([[True, False]] * 3), np.zeros(3, np.int64)
    save(x=mask, y=labels)
    assert load(inputs=[info(("N", 2), "?")]).batch(slice(1))[0]["x"].dtype == bool
    save(x=mask.astype("u1"), y=labels)
    with pytest.raises(DataError, match="dtype uint8"):
        load(inputs=[info(("N", 2), "?")])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("steps", [(), (HALF,)])
def test_the_first_sample_that_is_not_finite_is_named(save, load, images, *, classes, value, steps):
    images[7, 2, 3, 1] = images[9, 0, 0, 0] = value
    save(x=images, y=classes)
    with pytest.raises(DataError, match=r"sample 7 holds .*finite"):
        load(steps=steps)
    assert len(load(steps=steps, limit=7)) == 7


def test_the_bad_sample_is_found_in_any_chunk(save, load):
    images = np.zeros((3000, 300), np.float32)
    images[2345, 299] = np.nan
    save(x=images, y=np.zeros(3000, np.int64))
    with pytest.raises(DataError, match="sample 2345 holds nan"):
        load(inputs=[info(("N", 300))])


def test_preprocessing_may_not_overflow(save, load, images, classes):
    save(x=images.astype("f8") * 1e300, y=classes)
    with pytest.raises(DataError, match="finite range of float32"):
        load(steps=[HALF])
    save(x=np.full(images.shape, 40000, np.uint16), y=classes)
    with pytest.raises(DataError, match="finite range of float16"):
        load(inputs=[info(("N", 3, 4, 4), "f2")], steps=[Preprocess(scale=2.0)])


@pytest.mark.parametrize("dtype", ["u1", "i1", ">i2", ">i8", "u8"])
def test_classes_come_in_any_integer(save, load, images, classes, dtype):
    save(x=images, y=classes.astype(dtype))
    labels = load().labels
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, classes)


@pytest.mark.parametrize("value", [-1, 10, 2**62])
def test_classes_out_of_range_are_named(save, load, images, classes, value):
    classes[4] = classes[6] = value
    save(x=images, y=classes)
    with pytest.raises(DataError, match=rf"label {value} of sample 4 is out of range"):
        load()


def test_classes_without_a_known_count_are_at_least_not_negative(save, load, images, classes):
    save(x=images, y=classes * 1000)
    assert load(classes=None).labels.max() == 9000
    save(x=images, y=np.full(12, 2**64 - 1, np.uint64))
    with pytest.raises(DataError, match="range"):
        load(classes=None)


@pytest.mark.parametrize(
    "labels", [np.full(12, 0.5), np.zeros(12, bool), np.zeros((12, 1), int), np.eye(12, dtype=int)]
)
def test_other_labels_are_no_classes(save, load, images, labels):
    save(x=images, y=labels)
    with pytest.raises(DataError, match=r"labels have (dtype|shape).*int|shape \[N\]"):
        load()


def test_float_targets(save, load, images):
    targets = np.random.default_rng(0).normal(size=(12, 2))
    save(x=images, y=targets)
    got = load(kind="float").labels
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, targets.astype(np.float32))
    for value in (np.nan, 1e300):
        targets[5, 1] = value
        save(x=images, y=targets)
        with pytest.raises(DataError, match="label of sample 5"):
            load(kind="float")
    save(x=images, y=np.zeros(12, int))
    with pytest.raises(DataError, match="float targets"):
        load(kind="float")


def test_labels_are_found_by_the_usual_names(save, load, images, classes):
    for name in ("y", "label", "labels"):
        save(x=images, **{name: classes})
        np.testing.assert_array_equal(load().labels, classes)
    save(x=images, target=classes)
    np.testing.assert_array_equal(load(labels="data.npz#target").labels, classes)
    with pytest.raises(DataError, match="no array for labels"):
        load()
    save(x=images, y=classes, labels=classes)
    with pytest.raises(DataError, match="could both be"):
        load()


def test_an_input_is_never_taken_for_the_labels_nor_the_reverse(save, load, images, classes):
    save(x=images)
    with pytest.raises(DataError, match="no array for labels"):
        load()
    save(y=classes)
    with pytest.raises(DataError, match="no array for input 'x'"):
        load()


def test_labels_may_stay_away_when_nobody_reads_them(save, load, images):
    save(x=images)
    assert load(labels=None, kind="none").labels is None
    assert load(labels="gone.npz", kind="none").labels is None
    with pytest.raises(SpecError, match="labels"):
        load(labels=None)


def test_the_spec_must_name_the_inputs_of_the_model(save, load, images, classes):
    save(x=images, y=classes)
    with pytest.raises(SpecError, match="'image' is no input"):
        load({"x": "data.npz", "image": "data.npz"})
    with pytest.raises(SpecError, match="no file for the model's input 'mask'"):
        load(inputs=[info(("N", 3, 4, 4)), info(("N",), name="mask")])


def test_several_inputs_come_from_one_archive(save, load, images, classes):
    save(x=images, ids=np.arange(24, dtype=np.int32).reshape(12, 2), y=classes)
    inputs = [info(("N", 3, 4, 4)), info(("N", 2), "i8", "ids")]
    dataset = load({"x": "data.npz", "ids": "data.npz"}, inputs=inputs, steps=[HALF])
    batch, labels = dataset.batch(np.array([11, 0]))
    np.testing.assert_array_equal(batch["ids"], [[22, 23], [0, 1]])
    np.testing.assert_array_equal(batch["x"], images[[11, 0]] / 2)
    assert labels.tolist() == [1, 0]
    assert dataset.files == {"x": "data.npz", "ids": "data.npz", "labels": "data.npz"}


@pytest.mark.parametrize(
    ("step", "word"),
    [
        (Preprocess(scale=1.0, inputs=("z",)), "no input"),
        (Preprocess(scale=1.0, inputs=("ids",)), "makes floats"),
        (Preprocess(normalize=Normalize(mean=(0.0,) * 2, std=(1.0,) * 2)), "3 channels"),
        (Preprocess(normalize=Normalize(mean=(0.0,), std=(1e-300,))), "range of float32"),
    ],
)
def test_steps_must_fit_the_inputs(save, load, images, *, classes, step, word):
    save(x=images, ids=classes, y=classes)
    inputs = [info(("N", 3, 4, 4)), info(("N",), "i8", "ids")]
    with pytest.raises(SpecError, match=word):
        load({"x": "data.npz", "ids": "data.npz"}, inputs=inputs, steps=[step])


def test_an_input_of_text_is_refused(save, load, images, classes):
    save(x=images, y=classes)
    with pytest.raises(DataError, match="numeric"):
        load(inputs=[info(("N", 3, 4, 4), "O")])
