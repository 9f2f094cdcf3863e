"""One budget over single weights, each at its layer's price: nothing of the same cost is closer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxadmm.admm import PricedElements


@st.composite
def cases(draw):
    """Draw weights of up to three layers with their prices; small numbers make ties and zeros likely."""
    number = st.integers(-3, 3).map(float) | st.floats(-4, 4, width=32)
    layers = draw(st.lists(st.lists(number, min_size=1, max_size=4), min_size=1, max_size=3))
    prices = tuple(float(draw(st.integers(0, 9))) for _ in layers)
    weights = {f"w{i}": torch.tensor(w, dtype=torch.float32) for i, w in enumerate(layers)}
    return weights, prices


def made(weights, prices, share):
    whole = sum(p * w.numel() for p, w in zip(prices, weights.values(), strict=True))
    return PricedElements("all", tuple(weights), prices, whole, whole * share)


def flat(tensors):
    return np.concatenate([t.numpy().ravel() for t in tensors.values()]).astype(np.float64)


@settings(max_examples=150, deadline=None)
@given(case=cases(), share=st.floats(0, 1))
def test_nothing_that_costs_as_much_is_closer_and_the_next_weight_does_not_fit(case, share):
    weights, prices = case
    constraint = made(weights, prices, share)
    kept = flat({n: m.float() for n, m in constraint.masks(weights).items()}) > 0
    energy = np.square(flat(weights))
    price = np.concatenate(
        [np.full(w.numel(), p) for p, w in zip(prices, weights.values(), strict=True)]
    )
    cost = float(price[kept].sum())
    assert cost <= constraint.allowed + 1e-9
    assert kept[price == 0].all()
    for count in range(len(price) + 1):
        for chosen in map(list, itertools.combinations(range(len(price)), count)):
            if price[chosen].sum() <= cost:
                assert energy[chosen].sum() <= energy[kept].sum() * (1 + 1e-6) + 1e-12
    left = np.flatnonzero(~kept)
    if len(left):
        density = energy[left] / price[left]
        best = left[density >= density.max() * (1 - 1e-6)]
        assert cost + price[best].min() > constraint.allowed or len(set(price[best])) > 1
    again = constraint.project(constraint.project(weights))
    assert all(torch.equal(t, again[n]) for n, t in constraint.project(weights).items())


def test_of_equal_weights_the_earlier_ones_stay():
    weights = {"a": torch.ones(4), "b": torch.ones(2, 2)}
    masks = PricedElements("all", ("a", "b"), (2.0, 2.0), 16.0, 11.0).masks(weights)
    assert masks["a"].tolist() == [True] * 4
    assert masks["b"].flatten().tolist() == [True, False, False, False]


def test_a_weight_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        made({"a": torch.tensor([1.0, torch.inf])}, (1.0,), 0.5).masks(
            {"a": torch.tensor([1.0, torch.inf])}
        )
