"""What a benchmark says."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxadmm.bench.profile import Profile


@dataclass(frozen=True, slots=True)
class Latency:
    """How long one inference of a whole batch takes, once warm.

    Attributes:
        median_ms: Median over all timed runs.
        low_ms: Lower end of the 95 % interval of the median, over rounds and launches.
        high_ms: Upper end.
        p90_ms: 90th percentile over all timed runs.
        p99_ms: 99th percentile over all timed runs; outliers are part of it.
        runs: The number of timed runs: rounds times the runs of a round.
        throughput_per_s: Samples a second at the median: batch size over `median_ms`.
        samples_ms: One value a round, in the order taken: the median of the runs of that round.
    """

    median_ms: float
    low_ms: float
    high_ms: float
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
        first_run_ms: The very first run, which allocates and packs; median over the launches.
        warm_up_runs: Runs until they got no faster; median over the launches.
        settled: Whether they did, in every launch, within the time for it.
        peak_memory_bytes: By how much the resident set of the process grew at most over what it was before
            the session (Python, NumPy and ONNX Runtime, some 60 MB, are not in it): parsing,
            optimising and running; median over the launches. Memory on a GPU is not in it.
        peak_device_bytes: GPU memory that session and runs took, CUDA's own context not counted; None
            off the GPU. Other programs that allocate at that moment would be in it.
    """

    latency: Latency
    session_s: float
    first_run_ms: float
    warm_up_runs: int
    settled: bool
    peak_memory_bytes: int
    peak_device_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """How models are run: where, how many samples at once, on how many threads."""

    provider: str
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
        peak_gflops: Element type -> what a large matrix product of ONNX Runtime reached under this provider
            and number of threads, in 10^9 operations a second; only types that were asked for and that run
            here.
        profiles: Model name -> where its time goes; empty where it wasn't asked for.
        unprofiled: Model name -> why there is no profile of it, though it was asked for.
    """

    setting: Setting
    measurements: dict[str, Measurement]
    speedups: dict[str, Speedup]
    peak_gflops: dict[str, float] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    unprofiled: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A setting that this machine or these models can't be measured under, and why (one line)."""

    setting: Setting
    reason: str
