"""The interval of a metric's change: as wide as it has to be, and no wider."""

from __future__ import annotations

import numpy as np
import pytest

from onnxadmm.spec import Objective
from onnxadmm.training import Goal, paired_change
from onnxadmm.training.changes import student


@pytest.mark.parametrize(
    ("right", "worse", "better"), [(0.95, 0.02, 0.01), (0.99, 0.004, 0.0), (0.7, 0.05, 0.05)]
)
@pytest.mark.parametrize("samples", [50, 1000])
def test_the_interval_of_an_accuracy_holds_the_truth(right, worse, better, samples):
    """Two models that agree on most samples; the truth is what they differ by on all there could be."""
    rng = np.random.default_rng(0)
    held = held_relative = 0
    truth = (better - worse) / right
    for _ in range(400):
        kind = rng.choice(4, samples, p=[right - worse, worse, better, 1 - right - better])
        before, after = np.isin(kind, (0, 1)) * 1.0, np.isin(kind, (0, 2)) * 1.0
        change = paired_change(before, after, same=False, bounded=True)
        held += change.low <= better - worse <= change.high
        held_relative += change.relative_low <= truth <= change.relative_high
    assert held >= 372
    assert held_relative >= 372


def test_the_interval_of_an_error_holds_the_truth():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        noise = rng.standard_normal(300)
        before, after = noise**2, (1.1 * noise + 0.1 * rng.standard_normal(300)) ** 2
        change = paired_change(before, after, same=False, bounded=False)
        held += change.relative_low <= 1.1**2 + 0.01 - 1 <= change.relative_high
    assert held >= 368


def test_pairs_that_agree_say_nothing():
    """Whether a thousand samples are right or wrong in both models, the interval stays the same."""
    both = np.ones(5000)
    one, other = both.copy(), both.copy()
    one[:10], other[10:15] = 0, 0
    narrow = paired_change(one, other, same=False, bounded=True)
    assert narrow.high - narrow.low < 0.0035
    shuffled = paired_change(one, np.roll(other, 100), same=False, bounded=True)
    assert shuffled.high - shuffled.low == pytest.approx(narrow.high - narrow.low)


def test_no_difference_in_few_samples_is_not_taken_for_none():
    score = np.ones(20)
    change = paired_change(score, score, same=False, bounded=True)
    assert change.low < -0.05
    assert change.high > 0.05
    same = paired_change(score, score, same=True, bounded=True)
    assert (same.low, same.high, same.relative_low, same.relative_high) == (0, 0, 0, 0)
    assert paired_change(score[:1], score[:1], same=True, bounded=True) is None


def test_a_share_of_nothing_has_no_interval():
    change = paired_change(np.zeros(9), np.ones(9), same=False, bounded=False)
    assert change.relative_low is None
    assert change.relative_high is None


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (30, 2.0423)]
)
def test_students_quantile(degrees, quantile):
    assert student(degrees) == pytest.approx(quantile, rel=0.01)


@pytest.mark.parametrize("metric", ["accuracy", "agreement", "mse"])
def test_a_metric_is_the_mean_of_its_scores(metric):
    rng = np.random.default_rng(2)
    output, original = rng.standard_normal((2, 7, 3, 4))
    labels = rng.integers(0, 3, (7, 4)) if metric == "accuracy" else rng.standard_normal((7, 3, 4))
    loss = "mse" if metric == "mse" else "cross_entropy"
    goal = Goal(Objective(loss=loss, metric=metric))
    found = goal.scores(output, labels, original)
    assert found.shape == (7,)
    assert goal.measure(output, labels, original) == pytest.approx(found.mean())
