"""How long models take, as a document says it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple, Self

from pydantic import Field, field_validator

from onnxadmm.errors import one_line
from onnxadmm.report.fields import Count, Facts, NonNegative, Positive, PositiveInt, T
from onnxadmm.report.profiles import ProfileFacts

MAX_SAMPLES = 200


class Timed(NamedTuple):
    """A setting under which models were timed, by the names that documents give it.

    Attributes:
        provider: Its short name.
        threads: None for the number of threads that heads the document.
        batch: The batch size.
    """

    provider: str
    threads: str | None
    batch: str

    @property
    def order(self) -> tuple[str, int, int]:
        """What settings are sorted by: the first number of threads first, small batches first."""
        return self.provider, int(self.threads or 0), int(self.batch)


class BatchLatency(Facts):
    """How long one run of one batch takes."""

    median_ms: NonNegative
    low_ms: NonNegative | None = Field(
        None, description="Lower end of the 95 % interval of the median. Null: version 1 had none."
    )
    high_ms: NonNegative | None = Field(None, description="Upper end.")
    p90_ms: NonNegative
    p99_ms: NonNegative
    runs: PositiveInt = Field(description="Timed runs, all of them; samples_ms may hold fewer.")
    throughput_per_s: NonNegative = Field(description="Samples a second at the median.")
    first_run_ms: NonNegative | None = Field(
        None, description="The very first run, which allocates and packs."
    )
    warm_up_runs: Count | None = Field(None, description="Runs until they got no faster.")
    settled: bool | None = Field(
        None, description="Whether they did within 2 s, at every launch. Null: not recorded."
    )
    gflops: NonNegative | None = Field(
        None,
        description="What the model reaches at the median: 10^9 operations a second, two a MAC. Null: unknown.",
    )
    peak_share: NonNegative | None = Field(
        None,
        description="Of what a large matrix product of the same element type reached at best. Above 1 where an algorithm needs fewer operations than it is counted for.",
    )
    samples_ms: Annotated[tuple[NonNegative, ...], Field(strict=False, max_length=MAX_SAMPLES)] = (
        Field((), description="Single runs, thinned to quantiles when there were more than 200.")
    )

    @classmethod
    def of(cls, samples_ms: Sequence[float], batch_size: int) -> Self:
        """Summarise the timed runs (ms, at least one) of a batch size."""
        ordered = sorted(float(s) for s in samples_ms)
        median = _quantile(ordered, 0.5)
        return cls(
            median_ms=median,
            p90_ms=_quantile(ordered, 0.9),
            p99_ms=_quantile(ordered, 0.99),
            runs=len(ordered),
            throughput_per_s=1e3 * batch_size / median if median else 0.0,
            samples_ms=thin(ordered),
        )


class LatencyFacts(Facts):
    """Latency with one provider: at the first batch size of the benchmark, and at each."""

    batch_size: PositiveInt = Field(
        description="The first batch size of the benchmark; the numbers beside it are for this one."
    )
    median_ms: NonNegative
    low_ms: NonNegative | None = None
    high_ms: NonNegative | None = None
    p90_ms: NonNegative
    p99_ms: NonNegative
    runs: PositiveInt
    peak_device_bytes: Count | None = Field(
        None, description="GPU memory of session and runs, CUDA's context not counted."
    )
    peak_gflops: dict[str, NonNegative] = Field(
        default_factory=dict,
        description="Element type -> what a large matrix product reached at best in ONNX Runtime, in 10^9 "
        "operations a second.",
    )
    threads: PositiveInt | None = Field(
        None, description="Of the numbers beside it and of batches. Null: not recorded."
    )
    batches: dict[str, BatchLatency] = Field(
        default_factory=dict, description="Batch size (as text) -> its numbers."
    )
    more_threads: dict[str, dict[str, BatchLatency]] = Field(
        default_factory=dict,
        description="Further numbers of threads (as text) -> batch size -> its numbers.",
    )
    profile: ProfileFacts | None = Field(
        None,
        description="Where the time of a run goes, at the first batch size. Null: not profiled.",
    )

    @classmethod
    def of(
        cls,
        batches: Mapping[int, BatchLatency],
        *,
        peak_device_bytes: int | None = None,
        peak_gflops: Mapping[str, float] | None = None,
        threads: int | None = None,
        more_threads: Mapping[int, Mapping[int, BatchLatency]] | None = None,
        profile: ProfileFacts | None = None,
    ) -> Self:
        """Collect the batch sizes of a benchmark; the first in order is the one that heads it."""
        batch_size, first = next(iter(batches.items()))
        return cls(
            batch_size=batch_size,
            median_ms=first.median_ms,
            low_ms=first.low_ms,
            high_ms=first.high_ms,
            p90_ms=first.p90_ms,
            p99_ms=first.p99_ms,
            runs=first.runs,
            peak_device_bytes=peak_device_bytes,
            peak_gflops=dict(peak_gflops or {}),
            threads=threads,
            batches={str(b): facts for b, facts in batches.items()},
            more_threads={
                str(t): {str(b): facts for b, facts in found.items()}
                for t, found in (more_threads or {}).items()
            },
            profile=profile,
        )

    @field_validator("batches")
    @classmethod
    def _keys_are_sizes(cls, value: dict[str, BatchLatency]) -> dict[str, BatchLatency]:
        return numbered(value)

    @field_validator("more_threads")
    @classmethod
    def _keys_are_threads(
        cls, value: dict[str, dict[str, BatchLatency]]
    ) -> dict[str, dict[str, BatchLatency]]:
        return {threads: numbered(batches) for threads, batches in numbered(value).items()}


class SpeedupFacts(Facts):
    """Original time over compressed time, from paired and interleaved runs; above 1 is faster."""

    ratio: Positive
    low: Positive = Field(description="Lower end of the interval.")
    high: Positive = Field(description="Upper end of the interval.")


def thin(samples_ms: Sequence[float], limit: int = MAX_SAMPLES) -> tuple[float, ...]:
    """Return at most `limit` of the samples, ascending: evenly spaced ranks, both ends kept."""
    ordered = sorted(samples_ms)
    if len(ordered) <= limit:
        return tuple(ordered)
    last = len(ordered) - 1
    return tuple(ordered[round(i * last / (limit - 1))] for i in range(limit))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between closest ranks of an ascending sequence, as numpy does."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def numbered(batches: dict[str, T]) -> dict[str, T]:
    """Return the mapping, whose keys are batch sizes or numbers of threads as text.

    Raises:
        ValueError: One is none.
    """
    for key in batches:
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) > 0):  # noqa: PLR2004
            raise ValueError(
                f"{one_line(key, 40)!r} is neither a batch size nor a number of threads"
            )
    return batches
