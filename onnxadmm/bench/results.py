"""What a benchmark says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Provider = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Latency:
    """How long one inference of a whole batch takes, once warm.

    Attributes:
        median_ms: Median over all timed runs.
        p90_ms: 90th percentile over all timed runs.
        p99_ms: 99th percentile over all timed runs; outliers are part of it.
        runs: The number of timed runs: rounds times the runs of a round.
        throughput_per_s: Samples a second at the median: batch size over `median_ms`.
        samples_ms: One value a round, in the order taken: the median of the runs of that round.
    """

    median_ms: float
    p90_ms: float
    p99_ms: float
    runs: int
    throughput_per_s: float
    samples_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model under one setting.

    Attributes:
        latency: The times.
        session_s: Time to create the session (parse, optimise, allocate); median over the launches.
        peak_memory_bytes: The largest resident set that the process which held this model alone ever
            had, from its start to its last run; median over the launches. It is absolute: Python,
            NumPy and ONNX Runtime are in it (some 60 MB on CPU), and so is the parsing of the model,
            since a peak can't be reset everywhere. Memory on a GPU is not in it.
    """

    latency: Latency
    session_s: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Setting:
    """How models are run: where, how many samples at once, on how many threads."""

    provider: Provider
    batch_size: int
    threads: int

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.provider}, batch size {self.batch_size}, {threads}"


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times faster than the baseline.

    Attributes:
        ratio: Median over rounds of baseline time over candidate time.
        low: Lower end of the 95 % interval; see `onnxadmm.bench.statistics`.
        high: Upper end.
    """

    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """All models under one setting.

    Attributes:
        setting: The setting.
        measurements: Model name -> what was measured.
        speedups: Model name -> against the first model, which has no entry itself.
    """

    setting: Setting
    measurements: dict[str, Measurement]
    speedups: dict[str, Speedup]


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A setting that this machine or these models can't be measured under, and why (one line)."""

    setting: Setting
    reason: str
