"""The interval of a speedup keeps its promise under the noise of real machines."""

from __future__ import annotations

import numpy as np
import pytest

from onnxadmm.bench.statistics import speedup, summarize


def launches(rng, *, ratio=1.0, wave=0.0, launch=0.0, spikes=0.0, rounds=20, count=5):
    """Pairs of times (ms) with noise of a round, of a while (AR(1)), of a launch, and outliers."""
    pairs = []
    for _ in range(count):
        slow = np.zeros(rounds)
        for i in range(1, rounds):
            slow[i] = 0.7 * slow[i - 1] + wave * rng.standard_normal()
        noise = 0.02 * rng.standard_normal((2, rounds))
        noise += (rng.random((2, rounds)) < spikes) * rng.exponential(2.0, (2, rounds))
        bias = launch * rng.standard_normal()
        pairs.append((ratio * np.exp(noise[0] + slow + bias), np.exp(noise[1])))
    return pairs


@pytest.mark.parametrize(
    "noise",
    [
        {},
        {"wave": 0.02},
        {"launch": 0.02},
        {"spikes": 0.1},
        {"wave": 0.02, "launch": 0.02, "spikes": 0.1},
    ],
    ids=["rounds", "waves", "launches", "outliers", "all"],
)
def test_the_truth_is_in_the_interval(noise):
    rng = np.random.default_rng(0)
    tries = 40
    held = 0
    for _ in range(tries):
        found = speedup(launches(rng, ratio=2.0, **noise), rng)
        held += found.low <= 2.0 <= found.high
    assert held >= 0.95 * tries


def test_a_real_gain_is_seen_through_the_noise():
    rng = np.random.default_rng(0)
    found = speedup(launches(rng, ratio=1.3, wave=0.02, launch=0.02, spikes=0.1), rng)
    assert 1.15 < found.low < found.ratio < found.high < 1.5


def test_no_interval_is_narrower_than_a_percent_each_way():
    times = np.ones(20)
    found = speedup([(times, times)] * 5, np.random.default_rng(0))
    assert found.ratio == 1
    assert found.low == pytest.approx(0.99, abs=1e-3)
    assert found.high == pytest.approx(1.01, abs=1e-3)


def test_one_round_a_launch_is_enough_to_answer():
    found = speedup([(np.array([2.0]), np.array([1.0]))] * 5, np.random.default_rng(0))
    assert found.low < found.ratio < found.high
    assert found.ratio == pytest.approx(2.0)


def test_the_same_seed_gives_the_same_interval():
    pairs = launches(np.random.default_rng(1), wave=0.05)
    first, second = (speedup(pairs, np.random.default_rng(7)) for _ in range(2))
    assert first == second


def test_latency_counts_every_run_and_outliers_stay_in_the_tail():
    rounds = [np.full(10, 2.0) for _ in range(10)]
    rounds[3][4] = 1000.0
    found = summarize([rounds[:5], rounds[5:]], 8, np.random.default_rng(0))
    assert found.median_ms == found.p90_ms == 2.0
    assert found.p99_ms > 2.0
    assert found.low_ms == pytest.approx(1.98, abs=1e-3)
    assert found.high_ms == pytest.approx(2.02, abs=1e-3)
    assert found.runs == 100
    assert found.throughput_per_s == 4000
    assert found.samples_ms == (2.0,) * 10
