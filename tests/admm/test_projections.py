"""The projections against brute force: nothing that is allowed is closer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxadmm.admm import (
    CoupledChannels,
    PricedElements,
    Unstructured,
    channel_masks,
    coupled,
    kept_channels,
    project_unstructured,
    projections,
    top_k_mask,
)
from onnxadmm.admm.projections import slice_energy, top_k_magnitudes
from onnxadmm.channels import ChannelClass, Slice

# Few values, so that ties and zeros are common.
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -3.0, 1e-30, 1e30])


def vectors(size):
    return hnp.arrays(np.float32, size, elements=VALUES.map(np.float32)).map(torch.from_numpy)


def distance(a, b):
    return sum(float((a[n].double() - b[n].double()).square().sum()) for n in a)


def slice_of(tensor, axis, positions, unlearnt=False):
    return Slice(tensor, axis, np.array(positions, np.int64), unlearnt)


# A class of 3 channels as a graph makes it: filters, bias, a consumer's input axis, a flattened consumer
# where each channel fills 2 columns, and a concatenation where only half of the axis is its own.
SHAPES = {"w": (3, 2), "b": (3,), "next": (2, 3), "flat": (2, 6), "concat": (1, 5)}
SLICES = (
    slice_of("w", 0, [0, 1, 2]),
    slice_of("b", 0, [0, 1, 2]),
    slice_of("next", 1, [0, 1, 2]),
    slice_of("flat", 1, [0, 0, 1, 1, 2, 2]),
    slice_of("concat", 1, [-1, 2, 0, -1, 1]),
)


def channel_class(size=3, slices=SLICES):
    return ChannelClass("c", size, ("layer",), tuple(slices), 1, None, np.arange(1, size + 1))


@st.composite
def weights(draw):
    return {n: draw(vectors(int(np.prod(s)))).view(s) for n, s in SHAPES.items()}


def keep_only(values, alive):
    """Zero every slice of the channels that aren't in `alive`, element by element."""
    result = {n: v.clone() for n, v in values.items()}
    for s in SLICES:
        for index, position in enumerate(s.positions.tolist()):
            if position >= 0 and position not in alive:
                result[s.tensor].select(s.axis, index).zero_()
    return result


@settings(deadline=None)
@given(data=st.data(), size=st.integers(1, 6))
def test_no_sparse_tensor_is_closer_than_the_projection(data, size):
    weight = data.draw(vectors(size))
    k = data.draw(st.integers(0, size))
    projected = project_unstructured(weight, k)
    assert int((projected != 0).sum()) <= k
    best = distance({"w": weight}, {"w": projected})
    for support in itertools.combinations(range(size), k):
        other = torch.zeros(size)
        other[list(support)] = weight[list(support)]
        assert best <= distance({"w": weight}, {"w": other})
    assert torch.equal(project_unstructured(projected, k), projected)


@settings(deadline=None)
@given(data=st.data(), size=st.integers(1, 8))
def test_equal_scores_keep_the_lowest_indices(data, size):
    k = data.draw(st.integers(0, size))
    value = data.draw(st.sampled_from([0.0, 1.0, 3.5]))
    assert top_k_mask(torch.full((size,), value), k).tolist() == [i < k for i in range(size)]


@settings(deadline=None)
@given(data=st.data(), size=st.integers(1, 8))
def test_what_is_kept_is_exactly_k_and_never_scores_less(data, size):
    scores = data.draw(vectors(size)).abs()
    k = data.draw(st.integers(0, size))
    mask = top_k_mask(scores, k)
    assert int(mask.sum()) == k
    if 0 < k < size:
        assert scores[mask].min() >= scores[~mask].max()
        # Of those that tie at the border the lowest indices stay.
        border = scores[mask].min()
        tied = [i for i in range(size) if scores[i] == border]
        kept = [i for i in tied if mask[i]]
        assert kept == tied[: len(kept)]


@pytest.mark.parametrize("k", [-1, 4])
def test_k_outside_of_the_scores_is_refused(k):
    with pytest.raises(ValueError, match=f"k = {k} of 3"):
        top_k_mask(torch.ones(3), k)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(bad):
    weight = torch.tensor([[1.0, bad], [2.0, 3.0]])
    with pytest.raises(ValueError, match="not finite"):
        project_unstructured(weight, 1)
    for constraint in (
        Unstructured("w", 4, 2),
        CoupledChannels("c", 2, 1, (slice_of("w", 0, [0, 1]),)),
    ):
        with pytest.raises(ValueError, match="not finite"):
            constraint.project({"w": weight})


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_one_selection_over_several_tensors_is_the_closest_point(data):
    values = st.integers(-3, 3).map(float)
    parts = data.draw(st.lists(st.lists(values, min_size=1, max_size=3), min_size=1, max_size=3))
    weights = {f"w{i}": torch.tensor(p) for i, p in enumerate(parts)}
    size = sum(map(len, parts))
    keep = data.draw(st.integers(0, size))
    found = PricedElements("all", tuple(weights), (1.0,) * len(weights), size, keep).project(
        weights
    )
    got = torch.cat([found[n] for n in weights])
    whole = torch.cat(list(weights.values()))
    assert int((got != 0).sum()) <= keep
    least = min(
        float((whole * (1 - torch.tensor(chosen))).square().sum())
        for chosen in itertools.product((0.0, 1.0), repeat=size)
        if sum(chosen) <= keep
    )
    assert float((whole - got).square().sum()) == least
    again = PricedElements("all", tuple(weights), (1.0,) * len(weights), size, keep).project(found)
    assert all(torch.equal(again[n], found[n]) for n in weights)


def test_unstructured_keeps_shape_and_the_largest_of_the_whole_tensor():
    weight = torch.tensor([[1.0, -5.0], [0.0, 4.0]])
    constraint = Unstructured("w", 4, 2)
    assert constraint.project({"w": weight})["w"].tolist() == [[0.0, -5.0], [0.0, 4.0]]
    assert constraint.name == "w"
    assert constraint.tensors == ("w",)


@settings(max_examples=60, deadline=None)
@given(values=weights(), keep=st.integers(0, 3))
def test_no_set_of_channels_is_closer_than_the_coupled_projection(values, keep):
    constraint = coupled(channel_class(), keep, list(SHAPES))
    projected = constraint.project(values)
    alive = [i for i, kept in enumerate(constraint.kept(values).tolist()) if kept]
    assert len(alive) == keep
    for name, expected in keep_only(values, alive).items():
        assert torch.equal(projected[name], expected), name
    best = distance(values, projected)
    for support in itertools.combinations(range(3), keep):
        other = distance(values, keep_only(values, support))
        assert best <= other * (1 + 1e-12)
    again = constraint.project(projected)
    assert all(torch.equal(again[n], projected[n]) for n in projected)


@settings(deadline=None)
@given(keep=st.integers(0, 3))
def test_equal_channels_keep_the_lowest(keep):
    constraint = coupled(channel_class(), keep, list(SHAPES))
    ones = {n: torch.ones(s) for n, s in SHAPES.items()}
    assert constraint.kept(ones).tolist() == [i < keep for i in range(3)]


def test_a_channels_score_is_the_sum_of_squares_over_all_its_slices():
    values = {n: torch.zeros(s) for n, s in SHAPES.items()}
    values["w"][1] = torch.tensor([3.0, 4.0])
    values["flat"][0, 4:] = 2.0
    values["concat"][0] = torch.tensor([100.0, 1.0, 0.5, 100.0, 0.0])
    constraint = coupled(channel_class(), 1, list(SHAPES))
    assert constraint.scores(values).tolist() == [0.25, 25.0, 9.0]
    assert constraint.scores(values).dtype == torch.float64
    # What belongs to other channels of a concatenation is not touched.
    assert constraint.project(values)["concat"].tolist() == [[100.0, 0.0, 0.0, 100.0, 0.0]]


def test_masks_broadcast_over_the_channels_axis_only():
    values = {"conv": torch.ones(3, 2, 3, 3), "bias": torch.ones(3)}
    slices = (slice_of("conv", 0, [0, 1, 2]), slice_of("bias", 0, [0, 1, 2]))
    masks = channel_masks(slices, torch.tensor([True, False, True]), values)
    assert masks["conv"].shape == (3, 1, 1, 1)
    assert masks["bias"].tolist() == [True, False, True]
    assert (values["conv"] * masks["conv"]).sum((1, 2, 3)).tolist() == [18.0, 0.0, 18.0]


def test_two_axes_of_one_tensor_are_masked_together():
    slices = (slice_of("w", 0, [0, 1]), slice_of("w", 1, [0, 1]))
    masks = channel_masks(slices, torch.tensor([True, False]), {"w": torch.ones(2, 2)})
    assert masks["w"].tolist() == [[True, False], [False, False]]


def test_coupling_leaves_out_statistics_and_what_is_not_trained():
    slices = (*SLICES, slice_of("mean", 0, [0, 1, 2], unlearnt=True))
    constraint = coupled(channel_class(slices=slices), 2, [*SHAPES, "mean"])
    assert constraint.tensors == tuple(SHAPES)
    assert coupled(channel_class(slices=slices), 2, ["w", "mean"]).tensors == ("w",)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_scores_neither_underflow_nor_overflow(scale):
    energy = slice_energy(torch.tensor([[scale, scale], [0.0, scale]]), 0)
    assert energy.tolist() == pytest.approx([2 * scale**2, scale**2])


@settings(deadline=None)
@given(size=st.integers(1, 70), data=st.data())
def test_tightening_is_monotone_from_all_to_exactly_the_set(size, data):
    keep = data.draw(st.integers(0, size))
    shares = sorted(data.draw(st.lists(st.floats(0, 1), max_size=5)))
    for full in (Unstructured("w", size, keep), CoupledChannels("c", size, keep, SLICES)):
        kept = [full.tightened(s).keep for s in (0.0, *shares, 1.0)]
        assert kept == sorted(kept, reverse=True)
        assert kept[0] == size
        assert full.tightened(1.0) == full


def test_tightening_is_geometric():
    assert [Unstructured("w", 100, 1).tightened(s).keep for s in (0.25, 0.5, 0.75)] == [32, 10, 4]


@settings(max_examples=60, deadline=None)
@given(kept=st.lists(st.booleans(), min_size=3, max_size=3))
def test_kept_channels_reads_back_what_was_masked(kept):
    values = {n: torch.ones(s) for n, s in SHAPES.items()}
    found = channel_class()
    masks = channel_masks(found.slices, torch.tensor(kept), values)
    assert kept_channels(found, masks).tolist() == kept
    # Masks of the whole shape say the same.
    whole = {n: m.expand(values[n].shape) for n, m in masks.items()}
    assert kept_channels(found, whole).tolist() == kept


def test_a_channel_stays_while_any_weight_of_it_stays():
    found = channel_class(slices=[slice_of("w", 0, [0, 1, 2]), slice_of("b", 0, [0, 1, 2])])
    masks = {
        "w": torch.tensor([[False, True], [False, False], [False, False]]),
        "b": torch.tensor([False, False, True]),
    }
    assert kept_channels(found, masks).tolist() == [True, False, True]
    assert kept_channels(found, {"w": masks["w"]}).tolist() == [True, False, False]


def test_without_a_mask_every_channel_stays():
    assert kept_channels(channel_class(), {"other": torch.zeros(2)}).tolist() == [True] * 3


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_energy_of_slices_is_the_same_taken_a_few_at_a_time(monkeypatch, axis):
    weight = torch.randn(7, 5, 3, generator=torch.Generator().manual_seed(0))
    others = [a for a in range(3) if a != axis]
    expected = weight.double().square().sum(others)
    for elements in (1, 30, 1 << 22):
        monkeypatch.setattr(projections, "PIECE", elements)
        torch.testing.assert_close(projections.slice_energy(weight, axis), expected)


@settings(max_examples=100, deadline=None)
@given(weight=st.integers(1, 40).flatmap(vectors), data=st.data())
def test_counting_magnitudes_keeps_what_selecting_keeps(weight, data):
    k = data.draw(st.integers(0, len(weight)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projections, "PIECE", data.draw(st.integers(1, 3)))
        patch.setattr(projections, "LARGE", 0)
        assert torch.equal(top_k_magnitudes(weight, k), top_k_mask(weight.abs(), k))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_counting_refuses_what_is_not_finite(bad, monkeypatch):
    monkeypatch.setattr(projections, "LARGE", 0)
    with pytest.raises(ValueError, match="not finite"):
        top_k_magnitudes(torch.tensor([1.0, bad, 2.0]), 1)
