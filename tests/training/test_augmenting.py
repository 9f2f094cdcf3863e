"""Images are moved before each step, each as its sample and the epoch say, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import IDENTITY, SAMPLES, outcome, trainer
from stopping import StopAfter

from onnxadmm.errors import Interrupted
from onnxadmm.spec import Augment, Distillation, Objective, Optimizer
from onnxadmm.training import Augmentation, CheckpointStore

COUNT = 40
ALL = np.arange(COUNT)


def moved(images, *, axes=(2, 3), epoch=1, index=ALL, seed=0, **wanted):
    augmentation = Augmentation(Augment(**wanted), {"x": axes}, COUNT, seed)
    augmentation.begin(epoch)
    (result,) = augmentation(["x"], [torch.as_tensor(images)], index)
    return result.numpy()


def drawn(height=6, width=9, channels=3, seed=0):
    shape = (COUNT, channels, height, width)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def blobs(height, width, down, right):
    """Images with one soft spot so far from the middle."""
    y = np.arange(height)[:, None] - (height - 1) / 2 - down
    x = np.arange(width) - (width - 1) / 2 - right
    spot = np.exp(-(y**2 + x**2) / 8).astype(np.float32)
    return np.broadcast_to(spot, (COUNT, 1, height, width)).copy()


def spots(images):
    """Where the spots are, from the middle: [N, 2], down and right."""
    height, width = images.shape[2:]
    weight = images[:, 0] / images[:, 0].sum((1, 2), keepdims=True)
    down = (weight.sum(2) * (np.arange(height) - (height - 1) / 2)).sum(1)
    right = (weight.sum(1) * (np.arange(width) - (width - 1) / 2)).sum(1)
    return np.stack([down, right], 1)


@pytest.mark.parametrize(
    ("flip", "axes"), [("horizontal", {3}), ("vertical", {2}), ("both", {2, 3})]
)
def test_half_the_images_are_mirrored_and_the_others_are_not(flip, axes):
    images = drawn()
    result = moved(images, flip=flip)
    kinds = {(): 0, (3,): 0, (2,): 0, (2, 3): 0}
    for before, after in zip(images, result, strict=True):
        for kind in kinds:
            if np.array_equal(np.flip(before, [a - 1 for a in kind]), after):
                kinds[kind] += 1
    assert sum(kinds.values()) == COUNT
    assert {k for k, count in kinds.items() if count} == {k for k in kinds if set(k) <= axes}


@settings(deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.floats(0.05, 1))
def test_a_shift_is_of_whole_pixels_and_repeats_the_edge(height, width, shift):
    images = drawn(height, width, 1)
    most = [round(shift * height), round(shift * width)]
    for before, after in zip(images[:, 0], moved(images, shift=shift)[:, 0], strict=True):
        candidates = [
            before[np.clip(np.arange(height) - d, 0, height - 1)][
                :, np.clip(np.arange(width) - r, 0, width - 1)
            ]
            for d in range(-most[0], most[0] + 1)
            for r in range(-most[1], most[1] + 1)
        ]
        assert min(np.abs(c - after).max() for c in candidates) < 1e-5


def test_a_turn_keeps_the_distance_from_the_middle_and_stays_within_its_angle():
    before, after = np.array([0.0, 8.0]), spots(moved(blobs(41, 61, 0, 8), rotate=30))
    distance = np.linalg.norm(after, axis=1)
    assert np.abs(distance - np.linalg.norm(before)).max() < 0.05
    angles = np.degrees(np.arctan2(after[:, 0], after[:, 1]))
    assert np.abs(angles).max() <= 30.5
    assert angles.min() < -20
    assert angles.max() > 20


def test_a_zoom_scales_distances_within_its_share():
    after = spots(moved(blobs(61, 61, 6, 8), zoom=0.3))
    sizes = np.linalg.norm(after, axis=1) / 10
    assert sizes.min() >= 0.69
    assert sizes.max() <= 1.31
    assert sizes.min() < 0.8
    assert sizes.max() > 1.2


def test_channels_may_come_last():
    images = drawn()
    wanted = {"flip": "both", "shift": 0.2, "rotate": 20, "zoom": 0.2}
    last = moved(images.transpose(0, 2, 3, 1).copy(), axes=(1, 2), **wanted)
    np.testing.assert_array_equal(last.transpose(0, 3, 1, 2), moved(images, **wanted))


@settings(deadline=None)
@given(st.permutations(range(COUNT)), st.integers(1, COUNT))
def test_how_a_sample_moves_does_not_depend_on_its_batch(order, count):
    images, index = drawn(), np.array(order[:count])
    wanted = {"flip": "both", "shift": 0.3, "rotate": 90, "zoom": 0.4}
    whole = moved(images, **wanted)
    np.testing.assert_allclose(moved(images[index], index=index, **wanted), whole[index], atol=1e-5)


def test_each_epoch_and_seed_moves_anew():
    images = drawn()
    results = [moved(images, shift=0.5, epoch=e, seed=s) for e, s in [(1, 0), (2, 0), (1, 1)]]
    np.testing.assert_array_equal(results[0], moved(images, shift=0.5))
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert not np.array_equal(results[one], results[other])


def test_inputs_that_are_no_images_stay_and_images_of_a_sample_move_alike():
    augmentation = Augmentation(Augment(shift=0.5), {"a": (2, 3), "b": (2, 3)}, COUNT, 0)
    augmentation.begin(1)
    images, rest = torch.from_numpy(drawn()), torch.rand(COUNT, 5)
    a, b, c = augmentation(["a", "b", "c"], [images, images, rest], ALL)
    assert torch.equal(a, b)
    assert not torch.equal(a, images)
    assert c is rest


def augmented():
    return Augmentation(Augment(shift=0.3, flip="horizontal"), {"x": (2, 3)}, SAMPLES, 0)


def test_a_resumed_run_moves_images_as_the_whole_one_does(tmp_path):
    net, whole = trainer("retrain", None, None, augmentation=augmented())
    whole = outcome(net, whole.run())
    net, plain = trainer("retrain", None, None)
    assert outcome(net, plain.run()) != whole
    for steps in (1, 4):
        stopped = trainer(
            "retrain",
            CheckpointStore(tmp_path, IDENTITY),
            None,
            stop=StopAfter(steps),
            augmentation=augmented(),
        )[1]
        with pytest.raises(Interrupted):
            stopped.run()
    store = CheckpointStore(tmp_path, IDENTITY)
    net, made = trainer("retrain", store, None, augmentation=augmented())
    assert outcome(net, made.run()) == whole


def test_the_teacher_answers_to_the_moved_images():
    """A network that is its own teacher has nothing to learn, whatever the images; at stored answers it would have."""
    objective = Objective(loss="distill", distill=Distillation(match="mse"))
    _, made = trainer(
        "retrain",
        None,
        None,
        objective=objective,
        teacher=True,
        augmentation=augmented(),
        schedule={"optimizer": Optimizer(lr=1e-9)},
    )
    losses = [record.loss for record in made.run().history]
    assert max(losses) < 1e-9
