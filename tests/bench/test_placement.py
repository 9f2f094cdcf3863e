"""Cores are chosen idle, and on physical cores of their own while there are enough."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from onnxadmm.bench.placement import choose_cores, pick

PAIRED = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}


@pytest.mark.parametrize(
    ("threads", "busy", "expected"),
    [
        (1, {0: 9, 1: 5, 2: 8, 3: 1}, [3]),
        (1, {0: 9, 1: 0, 2: 0, 3: 1}, [1]),  # CPU 2 shares its core with a busy one
        (2, {0: 9, 1: 5, 2: 8, 3: 1}, [2, 3]),
        (3, {0: 9, 1: 5, 2: 8, 3: 1}, [1, 2, 3]),
        (4, {0: 9, 1: 5, 2: 8, 3: 1}, []),
        (8, {0: 9, 1: 5, 2: 8, 3: 1}, []),
    ],
)
def test_the_idlest_cores_are_picked(threads, busy, expected):
    assert pick(threads, busy, PAIRED, np.random.default_rng(0)) == expected


def test_chance_decides_among_equals():
    rng = np.random.default_rng(0)
    busy = dict.fromkeys(range(4), 0)
    picked = {pick(1, busy, {c: str(c) for c in busy}, rng)[0] for _ in range(100)}
    assert picked == {0, 1, 2, 3}


@pytest.mark.skipif(sys.platform != "linux", reason="cores can be chosen on Linux only")
def test_only_cores_that_this_process_may_use_are_chosen():
    chosen = choose_cores(1, np.random.default_rng(0))
    assert set(chosen) <= os.sched_getaffinity(0)
    assert len(chosen) <= 1
