"""One budget over many classes: nothing of the same cost is closer."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxadmm.admm import pooled
from onnxadmm.channels import ChannelClass, Slice, channels_left, make_pool
from onnxadmm.errors import SpecError
from onnxadmm.spec import Prune


def channel_class(name, size, cost):
    positions = np.arange(size)
    return ChannelClass(name, size, (name,), (Slice(name, 0, positions),), cost, None, positions)


def constraint(sizes, prices, amount=0.0, unit="parameters", **more):
    classes = [
        channel_class(f"c{i}", n, p) for i, (n, p) in enumerate(zip(sizes, prices, strict=True))
    ]
    rule = Prune(structure="channel", scope="global", unit=unit, amount=amount, **more)

    def cost(kept):
        return sum(p * k for p, k in zip(prices, kept, strict=True))

    count = channels_left if unit == "channels" else cost
    each = [1.0] * len(sizes) if unit == "channels" else prices
    return pooled(make_pool("entry", classes, rule, each, count), [c.name for c in classes])


@st.composite
def cases(draw):
    """Draw sizes, prices, weights and rounding; small numbers make ties and zeros likely."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    prices = [draw(st.integers(1, 9)) for _ in sizes]
    values = {
        f"c{i}": torch.tensor([float(draw(st.integers(-4, 4))) for _ in range(n)])
        for i, n in enumerate(sizes)
    }
    more = {"round_to": draw(st.integers(1, 2)), "min_channels": draw(st.integers(1, 2))}
    return sizes, prices, values, more


def best_score(made, values, budget):
    """Return the largest kept score of any choice of channels within a budget, by trying all."""
    top = -1.0
    scores = [values[f"c{i}"].double().square().numpy() for i in range(len(made.members))]
    choices = [
        [s for k in ladder for s in itertools.combinations(range(len(score)), k)]
        for ladder, score in zip(made.pool.ladders, scores, strict=True)
    ]
    for choice in itertools.product(*choices):
        if made.pool.cost([len(c) for c in choice]) <= budget:
            top = max(
                top, sum(float(s[list(c)].sum()) for s, c in zip(scores, choice, strict=True))
            )
    return top


def kept_score(projected):
    return sum(float(v.double().square().sum()) for v in projected.values())


@settings(max_examples=60, deadline=None)
@given(case=cases(), amount=st.floats(0, 0.95))
def test_single_channels_are_the_closest_of_the_whole_budget(case, amount):
    sizes, prices, values, _ = case
    try:
        made = constraint(sizes, prices, amount, unit="channels", round_to=1, min_channels=1)
    except SpecError:
        return
    projected = made.project(values)
    assert kept_score(projected) == best_score(made, values, made.allowed)
    assert sum(int(k.sum()) for k in made.kept(values)) == math.floor(made.allowed)


@settings(max_examples=60, deadline=None)
@given(case=cases(), border=st.floats(0.01, 20))
def test_what_is_above_one_price_is_the_closest_of_its_cost(case, border):
    sizes, prices, values, more = case
    made = constraint(sizes, prices, **more)
    counts = []
    for i, ladder in enumerate(made.pool.ladders):
        ranked = np.sort(values[f"c{i}"].numpy() ** 2)[::-1]
        count = ladder[0]
        for following in ladder[1:]:
            if ranked[count:following].mean() / prices[i] <= border:
                break
            count = following
        counts.append(count)
    budget = made.pool.cost(counts)
    there = replace(made, allowed=float(budget))
    assert kept_score(there.project(values)) == best_score(made, values, budget)


@settings(max_examples=100, deadline=None)
@given(case=cases(), amount=st.floats(0, 0.95))
def test_budget_rounding_and_the_bound_of_one_step_hold(case, amount):
    sizes, prices, values, more = case
    try:
        made = constraint(sizes, prices, amount, **more)
    except SpecError:
        # It is refused exactly where the least that may stay is too much.
        least = [min(n, max(more["round_to"], more["min_channels"])) for n in sizes]
        cost = sum(p * k for p, k in zip(prices, least, strict=True))
        assert cost > (1 - amount) * sum(p * n for p, n in zip(prices, sizes, strict=True))
        return
    kept = [int(k.sum()) for k in made.kept(values)]
    assert made.pool.cost(kept) <= made.allowed
    step, least = more["round_to"], more["min_channels"]
    for n, k in zip(sizes, kept, strict=True):
        assert k >= min(n, max(step, least))
        assert k % step == 0 or k in (n, least)
    projected = made.project(values)
    again = made.project(projected)
    assert all(torch.equal(again[n], projected[n]) for n in projected)
    step_score = max(
        float(v.double().square().sort(descending=True).values[:step].sum())
        for v in values.values()
    )
    assert kept_score(projected) >= best_score(made, values, made.allowed) - step_score


def test_a_dear_channel_must_score_more_than_a_cheap_one():
    made = constraint([2, 2], [10, 1], 0.5, round_to=1, min_channels=1)
    values = {"c0": torch.tensor([3.0, 3.0]), "c1": torch.tensor([1.0, 1.5])}
    # 22 in all, 11 stay: one of each; by channels alone the dear ones would both have stayed.
    assert [k.tolist() for k in made.kept(values)] == [[True, False], [False, True]]


def test_equal_channels_keep_the_first():
    made = constraint([3, 3], [1, 1], 0.5, round_to=1, min_channels=1)
    kept = made.kept({"c0": torch.ones(3), "c1": torch.ones(3)})
    assert [int(k.sum()) for k in kept] == [2, 1]
    assert all(k.tolist() == sorted(k.tolist(), reverse=True) for k in kept)


def test_the_way_to_the_budget_is_geometric_and_ends_at_it():
    made = constraint([50, 50], [1, 1], 0.96, round_to=1, min_channels=1)
    assert [made.tightened(s).allowed for s in (0.0, 0.5, 1.0)] == pytest.approx([100, 20, 4])
    assert made.tightened(1.0) == made


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(bad):
    made = constraint([2], [1], 0.5, round_to=1, min_channels=1)
    with pytest.raises(ValueError, match="not finite"):
        made.project({"c0": torch.tensor([bad, 1.0])})


def test_an_impossible_amount_names_its_bound():
    with pytest.raises(SpecError, match=r"entry: amount 0\.9 .* keep 4; at most 0\.6 can go"):
        constraint([10], [1], 0.9, min_channels=4)
    assert constraint([10], [1], 0.6, min_channels=4).kept({"c0": torch.ones(10)})[0].sum() == 4
