"""Coding: what is written is read back, in few bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxadmm.compact.coding import (
    MAX_BASE,
    bits_per_digit,
    encode_digits,
    encode_positions,
    encode_symbols,
)

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(2, MAX_BASE), st.integers(1, 300))
def test_digits_are_read_back(seed, base, count):
    codes = np.random.default_rng(seed).integers(0, base, count)
    digits = encode_digits(codes, base)
    assert np.array_equal(digits.decode(), codes)
    assert digits.base**digits.per_word <= 2 ** (8 * digits.words.dtype.itemsize)


@pytest.mark.parametrize("base", [2, 3, 5, 6, 7, 12, 15, 16, 200, 255, 256])
def test_digits_cost_little_more_than_the_logarithm_of_their_base(base):
    assert math.log2(base) <= bits_per_digit(base) <= 1.12 * math.log2(base)


@given(SEEDS, st.integers(1, 600), st.integers(1, 400), st.floats(0.2, 3.0))
def test_symbols_are_read_back(seed, alphabet, count, skew):
    rng = np.random.default_rng(seed)
    codes = np.minimum(
        (rng.pareto(skew, count) * alphabet / 8).clip(0, alphabet).astype(int), alphabet - 1
    )
    assert np.array_equal(encode_symbols(codes, alphabet).decode(), codes)


def test_rare_codes_escape_to_a_stream_of_their_own():
    rng = np.random.default_rng(0)
    codes = np.minimum(rng.geometric(0.6, 100_000) - 1, 254)
    shares = np.bincount(codes)[np.bincount(codes) > 0] / len(codes)
    entropy_bytes = -(shares * np.log2(shares)).sum() * len(codes) / 8
    coded = encode_symbols(codes, 255)
    assert coded.rare is not None
    assert coded.nbytes < 1.2 * entropy_bytes


@given(SEEDS, st.integers(1, 5000), st.floats(0, 1))
def test_places_are_read_back(seed, size, share):
    rng = np.random.default_rng(seed)
    places = np.flatnonzero(rng.random(size) < share)
    if not len(places):
        places = np.array([size - 1])
    assert np.array_equal(encode_positions(places, size).decode(), places)


@settings(max_examples=10)
@given(SEEDS, st.sampled_from([0.002, 0.01, 0.05, 0.2]))
def test_random_places_cost_little_more_than_their_entropy(seed, share):
    size = 300_000
    places = np.flatnonzero(np.random.default_rng(seed).random(size) < share)
    p = len(places) / size
    entropy_bytes = size * -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8
    assert encode_positions(places, size).nbytes < 1.08 * entropy_bytes
