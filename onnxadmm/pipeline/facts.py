"""From what the stages found to the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxadmm import bench
from onnxadmm.channels import ChannelClass
from onnxadmm.compact import Account
from onnxadmm.errors import one_line
from onnxadmm.report import (
    BatchLatency,
    Epoch,
    LatencyFacts,
    MetricChange,
    ModelFacts,
    ProfileFacts,
    Ratios,
    Report,
    SpeedupFacts,
    Unmeasured,
    judge,
    thin,
)
from onnxadmm.report import ChannelClass as ReportedClass
from onnxadmm.spec import Benchmark, Spec

if TYPE_CHECKING:
    from onnxadmm.training import Change, EpochRecord

# Where these are, integer kernels run.
_INTEGER = frozenset(
    {
        "QuantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
    }
)

Timings = Sequence[bench.Comparison | bench.Unmeasured]


def settings(b: Benchmark) -> list[bench.Setting]:
    """Return what a benchmark section asks for, provider by provider."""
    return [
        bench.Setting(p, n, t) for p in b.providers for t in b.thread_counts for n in b.batch_sizes
    ]


def computes_in(model: ir.Model) -> bench.Kind:
    """Return the element type that most of a model's work is done in, for the machine's peak."""
    if any(n.op_type in _INTEGER for n in model.graph):
        return "int8"
    held = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    halves = sum(t.size for t in held if t.dtype == ir.DataType.FLOAT16)
    return "float16" if 2 * halves > sum(t.size for t in held) else "float32"


def model_facts(
    name: str,
    account: Account,
    metrics: Mapping[str, float],
    timings: Timings,
    kind: bench.Kind = "float32",
) -> ModelFacts:
    """Collect what is known of one model; `kind` is what it computes in."""
    latency: dict[str, LatencyFacts] = {}
    measured = [
        (t, t.measurements[name])
        for t in timings
        if isinstance(t, bench.Comparison) and name in t.measurements
    ]
    for provider in dict.fromkeys(t.setting.provider for t, _ in measured):
        latency[provider] = _latency(
            name, [t for t, _ in measured if t.setting.provider == provider], account.macs, kind
        )
    return ModelFacts(
        file_bytes=account.file_bytes,
        parameters=account.parameters,
        nonzero_parameters=account.nonzero_parameters,
        macs=account.macs,
        metrics=dict(metrics),
        latency=latency,
        peak_memory_bytes=max((m.peak_memory_bytes for _, m in measured), default=None),
        session_s=min((m.session_s for _, m in measured), default=None),
    )


def _latency(
    name: str, timings: Sequence[bench.Comparison], macs: int, kind: bench.Kind
) -> LatencyFacts:
    """Collect the times of a model with one provider; the first setting heads them."""
    first = timings[0]
    by_threads: dict[int, dict[int, BatchLatency]] = {}
    for timing in timings:
        setting = timing.setting
        by_threads.setdefault(setting.threads, {})[setting.batch_size] = batch_latency(
            timing.measurements[name], macs * setting.batch_size, timing.peak_gflops.get(kind)
        )
    batches = by_threads.pop(first.setting.threads)
    held = [t.measurements[name].peak_device_bytes for t in timings]
    on_device = [b for b in held if b is not None]
    profile = next((t for t in timings if name in t.profiles), None)
    return LatencyFacts.of(
        batches,
        peak_device_bytes=max(on_device, default=None),
        peak_gflops=first.peak_gflops,
        threads=first.setting.threads,
        more_threads=by_threads,
        profile=None
        if profile is None
        else ProfileFacts(
            batch_size=profile.setting.batch_size, **profile.profiles[name].to_plain()
        ),
    )


def batch_latency(
    measured: bench.Measurement, macs: int, peak_gflops: float | None
) -> BatchLatency:
    """Return a latency as the report lists it: percentiles over all runs, the rounds as samples.

    Args:
        measured: What was measured.
        macs: Of the whole batch; 0 where they are unknown.
        peak_gflops: What a large matrix product reached, in 10^9 operations a second; None: not measured.
    """
    latency = measured.latency
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
        first_run_ms=measured.first_run_ms,
        warm_up_runs=measured.warm_up_runs,
        settled=measured.settled,
        samples_ms=thin(latency.samples_ms),
    )


def ratios(
    name: str,
    original: ModelFacts,
    facts: ModelFacts,
    timings: Timings,
    changes: Mapping[str, Change] | None = None,
) -> Ratios:
    """Compare a model with the original."""
    speedups: dict[str, dict[int, SpeedupFacts]] = {}
    more: dict[str, dict[int, dict[int, SpeedupFacts]]] = {}
    heads: dict[str, int] = {}
    for timing in timings:
        if isinstance(timing, bench.Comparison) and name in timing.speedups:
            s, where = timing.speedups[name], timing.setting
            found = SpeedupFacts(ratio=s.ratio, low=s.low, high=s.high)
            if heads.setdefault(where.provider, where.threads) == where.threads:
                speedups.setdefault(where.provider, {})[where.batch_size] = found
            else:
                by_threads = more.setdefault(where.provider, {})
                by_threads.setdefault(where.threads, {})[where.batch_size] = found
    return Ratios.between(
        original,
        facts,
        speedups,
        more_threads=more,
        metric_changes={m: MetricChange(**asdict(c)) for m, c in (changes or {}).items()},
    )


def unmeasured(timings: Timings) -> list[Unmeasured]:
    """Return what the benchmark could not measure, and why."""
    found = [
        Unmeasured(what=f"latency on {t.setting}", reason=t.reason)
        for t in timings
        if isinstance(t, bench.Unmeasured)
    ]
    found += [
        Unmeasured(what=f"profile of {one_line(name, 60)} ({t.setting})", reason=reason)
        for t in timings
        if isinstance(t, bench.Comparison)
        for name, reason in t.unprofiled.items()
    ]
    return found


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
