"""From raw times to numbers with an honest interval.

Times on a machine that does other things are no independent draws. They are wrong together in two
ways, and an interval that ignores either promises too much (a plain bootstrap over the rounds missed
the truth in 11 of 80 comparisons of a model with itself):

- for a while: a neighbour computes, the clock slows. Rounds close in time resemble each other, so
  they are drawn in blocks (Künsch 1989, the circular form of Politis and Romano 1992);
- for life: where a process lies in memory, and the core it woke up on first, make all its runs faster or
  slower by some percent. So processes are started several times, and launches are drawn first, and
  rounds within them (Kalibera and Jones 2013, "Rigorous benchmarking in reasonable time").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxadmm.bench.results import Latency, Speedup

Times = np.ndarray[Any, np.dtype[np.float64]]

DRAWS = 2000
BLOCK_ROUNDS = 5
# Nobody should believe a speedup of less than a percent, whatever the rounds say.
LEAST_HALF_WIDTH = 0.01
# Five launches tell too little of how much launches differ. For means, Student's quantile and the
# missing degree of freedom widen the bootstrap by 2.776 / 1.960 * sqrt(5 / 4).
FEW_LAUNCHES = 1.58
MAX_DRAWN = 2_000_000
_TAILS_PERCENT = (2.5, 97.5)


def summarize(
    launches: Sequence[Sequence[Times]], batch_size: int, rng: np.random.Generator
) -> Latency:
    """Return the latency of one model.

    Args:
        launches: For each launch, the times of the runs of each round, in ms.
        batch_size: Samples a run.
        rng: For the bootstrap of the median.
    """
    rounds = [times for launch in launches for times in launch]
    runs = np.concatenate(rounds)
    medians = [np.log([np.median(times) for times in launch]) for launch in launches]
    low, high = _spread(medians, rng)
    median, p90, p99 = (float(x) for x in np.percentile(runs, (50, 90, 99)))
    return Latency(
        median_ms=median,
        low_ms=median * low,
        high_ms=median * high,
        p90_ms=p90,
        p99_ms=p99,
        runs=len(runs),
        throughput_per_s=batch_size * 1e3 / median,
        samples_ms=tuple(float(np.median(times)) for times in rounds),
    )


def speedup(launches: Sequence[tuple[Times, Times]], rng: np.random.Generator) -> Speedup:
    """Return the median of the paired ratios with a 95 % interval.

    Args:
        launches: For each launch of the processes, the baseline's and the candidate's time by round, in
            the order they were taken: two arrays of one length.
        rng: For the bootstrap; the same state gives the same interval.
    """
    ratios = [np.log(baseline / candidate) for baseline, candidate in launches]
    ratio = float(np.exp(np.median(np.concatenate(ratios))))
    low, high = _spread(ratios, rng)
    return Speedup(ratio=ratio, low=ratio * low, high=ratio * high)


def _spread(launches: Sequence[Times], rng: np.random.Generator) -> tuple[float, float]:
    """Return the ends of the interval of the median as factors of it, from logarithms by launch."""
    middle = float(np.median(np.concatenate(launches)))
    low, high = (float(x) for x in np.percentile(_draw_medians(launches, rng), _TAILS_PERCENT))
    return (
        float(np.exp(-max((middle - low) * FEW_LAUNCHES, LEAST_HALF_WIDTH))),
        float(np.exp(max((high - middle) * FEW_LAUNCHES, LEAST_HALF_WIDTH))),
    )


def _draw_medians(launches: Sequence[Times], rng: np.random.Generator) -> Times:
    """Return the medians of `DRAWS` sets of rounds: launches drawn first, then blocks within them."""
    sizes = np.array([len(values) for values in launches])
    offsets = np.cumsum(sizes) - sizes
    flat = np.concatenate(launches)
    rounds = int(sizes.max())
    length = min(BLOCK_ROUNDS, rounds)
    medians: list[Times] = []
    # In portions, so that ten thousand rounds don't need gigabytes.
    portion = max(1, MAX_DRAWN // (rounds * len(launches)))
    for start in range(0, DRAWS, portion):
        draws = min(portion, DRAWS - start)
        # [draws, launches, blocks, rounds of a block]; in every launch the end meets the start
        chosen = rng.integers(0, len(launches), (draws, len(launches), 1, 1))
        begins = rng.random((draws, len(launches), -(-rounds // length), 1)) * sizes[chosen]
        index = offsets[chosen] + (begins.astype(int) + np.arange(length)) % sizes[chosen]
        index = index.reshape(draws, len(launches), -1)[:, :, :rounds]
        medians.append(np.median(flat[index.reshape(draws, -1)], axis=1))
    return np.concatenate(medians)
