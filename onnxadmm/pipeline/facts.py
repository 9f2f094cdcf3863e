"""From what the stages found to the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from onnxadmm import bench
from onnxadmm.channels import ChannelClass
from onnxadmm.compact import Account
from onnxadmm.report import (
    BatchLatency,
    Epoch,
    LatencyFacts,
    ModelFacts,
    Ratios,
    Report,
    SpeedupFacts,
    Unmeasured,
    judge,
    thin,
)
from onnxadmm.report import ChannelClass as ReportedClass
from onnxadmm.spec import Spec

if TYPE_CHECKING:
    from onnxadmm.training import EpochRecord

Name = Literal["original", "pruned", "compressed"]
Timings = Sequence[bench.Comparison | bench.Unmeasured]


def settings(spec: Spec) -> list[bench.Setting]:
    """Return what the spec's benchmark asks for, provider by provider."""
    b = spec.benchmark
    return [bench.Setting(p, n, b.threads) for p in b.providers for n in b.batch_sizes]


def peak_kinds(spec: Spec) -> list[bench.Kind]:
    """Return the element types that the models compute in, for the machine's peak."""
    return ["float32", "int8"] if spec.int8 else ["float32"]


def model_facts(
    name: Name,
    account: Account,
    metrics: Mapping[str, float],
    timings: Timings,
    kind: bench.Kind = "float32",
) -> ModelFacts:
    """Collect what is known of one model; `kind` is what it computes in."""
    by_provider: dict[str, dict[int, BatchLatency]] = {}
    device: dict[str, int] = {}
    peaks: dict[str, dict[str, float]] = {}
    memory: list[int] = []
    session: list[float] = []
    for timing in timings:
        if isinstance(timing, bench.Unmeasured) or name not in timing.measurements:
            continue
        measured, setting = timing.measurements[name], timing.setting
        peak = peaks.setdefault(setting.provider, timing.peak_gflops).get(kind)
        by_provider.setdefault(setting.provider, {})[setting.batch_size] = batch_latency(
            measured.latency, account.macs * setting.batch_size, peak
        )
        if measured.peak_device_bytes is not None:
            so_far = device.get(setting.provider, 0)
            device[setting.provider] = max(so_far, measured.peak_device_bytes)
        memory.append(measured.peak_memory_bytes)
        session.append(measured.session_s)
    return ModelFacts(
        file_bytes=account.file_bytes,
        parameters=account.parameters,
        nonzero_parameters=account.nonzero_parameters,
        macs=account.macs,
        metrics=dict(metrics),
        latency={
            p: LatencyFacts.of(b, peak_device_bytes=device.get(p), peak_gflops=peaks[p])
            for p, b in by_provider.items()
        },
        peak_memory_bytes=max(memory, default=None),
        session_s=min(session, default=None),
    )


def batch_latency(latency: bench.Latency, macs: int, peak_gflops: float | None) -> BatchLatency:
    """Return a latency as the report lists it: percentiles over all runs, the rounds as samples.

    Args:
        latency: What was measured.
        macs: Of the whole batch; 0 where they are unknown.
        peak_gflops: What a large matrix product reached, in 10^9 operations a second; None: not measured.
    """
    gflops = 2 * macs / latency.median_ms / 1e6 if macs and latency.median_ms else None
    return BatchLatency(
        gflops=gflops,
        peak_share=gflops / peak_gflops if gflops is not None and peak_gflops else None,
        median_ms=latency.median_ms,
        low_ms=latency.low_ms,
        high_ms=latency.high_ms,
        p90_ms=latency.p90_ms,
        p99_ms=latency.p99_ms,
        runs=latency.runs,
        throughput_per_s=latency.throughput_per_s,
        samples_ms=thin(latency.samples_ms),
    )


def ratios(name: Name, original: ModelFacts, facts: ModelFacts, timings: Timings) -> Ratios:
    """Compare a model with the original."""
    speedups: dict[str, dict[int, SpeedupFacts]] = {}
    for timing in timings:
        if isinstance(timing, bench.Comparison) and name in timing.speedups:
            s = timing.speedups[name]
            speedups.setdefault(timing.setting.provider, {})[timing.setting.batch_size] = (
                SpeedupFacts(ratio=s.ratio, low=s.low, high=s.high)
            )
    return Ratios.between(original, facts, speedups)


def unmeasured(timings: Timings) -> list[Unmeasured]:
    """Return what the benchmark could not measure, and why."""
    return [
        Unmeasured(what=f"latency on {t.setting}", reason=t.reason)
        for t in timings
        if isinstance(t, bench.Unmeasured)
    ]


def reported_classes(
    classes: Sequence[ChannelClass], kept: Mapping[str, int]
) -> list[ReportedClass]:
    """Return the classes as the report lists them."""
    return [
        ReportedClass(
            class_name=c.name,
            members=c.layers,
            size=c.size,
            kept=kept.get(c.name, c.size),
            fixed=c.fixed,
            reason=c.reason,
        )
        for c in classes
    ]


def epochs(history: Sequence[EpochRecord]) -> list[Epoch]:
    """Return the history as the report lists it."""
    return [Epoch.model_validate(asdict(r)) for r in history]


def judged(report: Report, spec: Spec) -> Report:
    """Return the report with the spec's gates judged."""
    return report.model_copy(update={"gates": tuple(judge(spec.gates, report))})
