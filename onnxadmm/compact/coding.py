"""Numbers as few bytes as ONNX operators can still read back: what packing stores instead of weights.

Everything is a stream of small whole numbers ("codes") in digits of machine words, and decodes by integer
arithmetic on whole arrays, never by a loop over elements:

    digits     codes below `base`, as many to a word as its bits hold: 6 levels cost 2.67 bits, not 3
    symbols    frequent codes in a small base, rare ones behind an escape in a stream of their own
    positions  gaps between the places of nonzeros, Golomb coded: quotients in unary, remainders as digits;
               within a few percent of the entropy of random places (Golomb 1966)

`onnxadmm.compact.unpacking` holds the same arithmetic as ONNX functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

WORDS = (np.uint8, np.uint16, np.uint32)
"""Word types. 32 bits at most: a power of a base up to there is exact in float64, and ORT's Pow uses it."""
MAX_BASE = 1 << 16
"""Alphabets above this aren't worth a table."""


@dataclass(frozen=True)
class Digits:
    """Codes as digits of words, the lowest digit first.

    Attributes:
        words: uint8, uint16 or uint32 [ceil(count / per_word)].
        base: Each code is below it.
        per_word: Digits in a word.
        count: How many codes there are; the last word is filled up with zeros.
    """

    words: Array
    base: int
    per_word: int
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes of the words."""
        return int(self.words.nbytes)

    def decode(self) -> Array:
        """Return the codes, int64 [count]."""
        powers = self.base ** np.arange(self.per_word, dtype=np.int64)
        digits: Array = self.words.astype(np.int64)[:, None] // powers % self.base
        return digits.reshape(-1)[: self.count]


def per_word(base: int, bits: int) -> int:
    """Return how many digits of this base fit into so many bits."""
    digits, reach = 0, base
    while reach <= 1 << bits:
        digits, reach = digits + 1, reach * base
    return digits


def encode_digits(codes: Array, base: int) -> Digits:
    """Write codes as digits, in the word type that takes fewest bytes.

    Args:
        codes: Whole numbers in [0, base), [N].
        base: 2 to `MAX_BASE`.
    """
    sizes = []
    for word in WORDS:
        bits = np.dtype(word).itemsize * 8
        fit = per_word(base, bits)
        if fit:
            sizes.append((math.ceil(len(codes) / fit) * (bits // 8), bits, fit, word))
    _, _, fit, word = min(sizes, key=lambda s: s[:2])
    padded = np.zeros(math.ceil(len(codes) / fit) * fit, np.uint64)
    padded[: len(codes)] = codes
    powers = np.array([base**i for i in range(fit)], np.uint64)
    return Digits((padded.reshape(-1, fit) * powers).sum(1).astype(word), base, fit, len(codes))


@cache
def bits_per_digit(base: int) -> float:
    """Return what a digit costs in a long stream, in bits."""
    widths = [np.dtype(w).itemsize * 8 for w in WORDS]
    return min(w / per_word(base, w) for w in widths if per_word(base, w))


@cache
def _filling() -> frozenset[int]:
    """Return the largest bases of which so many digits fit into a word."""
    widths = [np.dtype(w).itemsize * 8 for w in WORDS]
    # What rounding lets in beyond that is tried for nothing, and costs as it costs.
    return frozenset(int(2 ** (w / n) + 1e-9) for w in widths for n in range(1, w)) - {1}


@dataclass(frozen=True)
class Symbols:
    """Codes ranked by frequency: those below `last` as they are, the others as `last` and then in `rare`.

    Attributes:
        common: Digits of base `last` + 1; `last` stands for an escape where there are rare codes.
        rare: The escaped codes minus `last`, in order of their appearance.
    """

    common: Digits
    rare: Symbols | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all streams."""
        return self.common.nbytes + (self.rare.nbytes if self.rare else 0)

    @property
    def streams(self) -> Iterator[Digits]:
        """The streams, the most frequent first."""
        yield self.common
        if self.rare is not None:
            yield from self.rare.streams

    def decode(self) -> Array:
        """Return the codes, int64."""
        codes = self.common.decode()
        if self.rare is None:
            return codes
        last = self.common.base - 1
        escaped = codes == last
        codes[escaped] = last + self.rare.decode()
        return codes


def encode_symbols(codes: Array, alphabet: int) -> Symbols:
    """Write codes that are ranked by frequency (0 the most frequent).

    Args:
        codes: Whole numbers in [0, alphabet), [N].
        alphabet: 1 to `MAX_BASE`.
    """
    counts = np.bincount(codes, minlength=alphabet)
    # How many codes have this rank or a rarer one.
    above = counts[::-1].cumsum()[::-1].tolist()
    depth = MAX_STREAMS if alphabet <= SMALL_ALPHABET else 2
    _, cuts = _cheapest(above, 0, depth, {})
    return _split(codes, alphabet, cuts)


MAX_STREAMS = 4
SMALL_ALPHABET = 512
"""Larger ones get two streams at most: the search would take longer than the coding."""
ESCAPE_BITS = 8 * 120
"""What another stream costs the file in nodes and names."""


def _cheapest(
    above: list[int], start: int, depth: int, known: dict[tuple[int, int], tuple[float, list[int]]]
) -> tuple[float, list[int]]:
    """Return the fewest bits for the codes of rank `start` on, and the sizes of the streams before the last."""
    if (start, depth) not in known:
        rest = len(above) - start
        count = above[start]
        best: tuple[float, list[int]] = (count * bits_per_digit(max(rest, 2)), [])
        for cut in _candidates(rest) if depth > 1 else ():
            here = count * bits_per_digit(cut + 1) + ESCAPE_BITS
            if here < best[0]:
                bits, cuts = _cheapest(above, start + cut, depth - 1, known)
                if here + bits < best[0]:
                    best = (here + bits, [cut, *cuts])
        known[start, depth] = best
    return known[start, depth]


def _split(codes: Array, alphabet: int, cuts: list[int]) -> Symbols:
    if not cuts:
        return Symbols(encode_digits(codes, max(alphabet, 2)))
    last, *others = cuts
    rare = _split(codes[codes >= last] - last, alphabet - last, others)
    return Symbols(encode_digits(np.minimum(codes, last), last + 1), rare)


def _candidates(alphabet: int) -> Iterator[int]:
    """Yield how many of the most frequent codes a stream may keep; the rest must be two at least."""
    yield from range(1, min(alphabet - 1, 64))
    power = 64
    while power < alphabet - 1:
        yield power - 1
        power *= 2


@dataclass(frozen=True)
class Positions:
    """Increasing places, as Golomb codes of the gaps between them.

    Attributes:
        quotients: One bit string: a zero, and for each gap, gap // divisor zeros and a one.
        remainders: How far gap % divisor is below divisor - 1, for each; None where the divisor is 1.
        divisor: The Golomb parameter.
        count: How many places.
    """

    quotients: Digits
    remainders: Digits | None
    divisor: int
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes of both streams."""
        return self.quotients.nbytes + (self.remainders.nbytes if self.remainders else 0)

    def decode(self) -> Array:
        """Return the places, int64 [count]."""
        # Counted from the zero in front, the ends are all that is needed of the order.
        ends = np.flatnonzero(self.quotients.decode())
        if self.remainders is None:
            return ends - 1
        places: Array = ends * self.divisor - np.cumsum(self.remainders.decode()) - 1
        return places


def encode_positions(places: Array, size: int) -> Positions:
    """Write strictly increasing places in [0, size), at least one.

    The divisor starts at ln 2 of the mean gap, Golomb's optimum for random places, and is then moved to
    where digits fill their words best.
    """
    gaps = np.diff(places, prepend=-1) - 1
    ideal = max(1.0, math.log(2) * size / len(places))
    tried = {max(1, min(MAX_BASE, round(ideal * f))) for f in np.geomspace(0.5, 2.0, 25)} | {1}
    tried |= {d for d in _filling() if 0.5 * ideal <= d <= 2 * ideal}
    coded = {d: len(gaps) + int((gaps // d).sum()) for d in tried}
    cost = {d: coded[d] + (len(gaps) * bits_per_digit(d) if d > 1 else 0.0) for d in sorted(tried)}
    divisor = min(cost, key=cost.__getitem__)
    ends = np.cumsum(gaps // divisor + 1)
    bits = np.zeros(int(ends[-1]) + 1, np.uint8)
    bits[ends] = 1
    remainders = encode_digits(divisor - 1 - gaps % divisor, divisor) if divisor > 1 else None
    return Positions(encode_digits(bits, 2), remainders, divisor, len(places))
