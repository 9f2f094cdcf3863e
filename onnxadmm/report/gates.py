"""The gates: goals of the spec against what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnxadmm.errors import one_line
from onnxadmm.report import formatting as fmt
from onnxadmm.report.document import Gate

if TYPE_CHECKING:
    from onnxadmm.report.document import Report
    from onnxadmm.spec import Gates, RelativeDrop

# 0.9925 - 0.9915 is more than 0.001 in binary. Ten samples of 10,000 are still ten.
ROUNDING = 1e-9


def judge(gates: Gates, report: Report) -> list[Gate]:
    """Judge every goal against the report's numbers; what was not measured has failed.

    Args:
        gates: The goals, from the run's spec or from another one.
        report: The measurements. Its own `gates` are not looked at.

    Returns:
        One gate a goal, in the spec's order. Every message names value, limit and the miss.
    """
    return [
        *(_max_drop(name, limit, report) for name, limit in gates.max_drop.items()),
        *(_min_speedup(name, limit, report) for name, limit in gates.min_speedup.items()),
        *(_max_latency(name, limit, report) for name, limit in gates.max_latency_ms.items()),
        *([] if gates.max_file_bytes is None else [_max_file(gates.max_file_bytes, report)]),
        *([] if gates.min_compression is None else [_compression(gates.min_compression, report)]),
    ]


def _max_drop(metric: str, wanted: float | RelativeDrop, report: Report) -> Gate:
    name = f"max_drop.{metric}"
    before = report.original.metrics.get(metric)
    after = report.compressed.metrics.get(metric)
    limit = wanted if isinstance(wanted, int | float) else wanted.relative
    if before is None or after is None:
        model = "original" if before is None else "compressed model"
        return _unmeasured(name, limit, f"{one_line(metric, 40)} of the {model}", report)
    drop = after - before if fmt.lower_is_better(metric) else before - after
    # The slack is for binary rounding of the difference, which scales with its operands.
    slack = ROUNDING * max(abs(before), abs(after), limit)
    if not isinstance(wanted, int | float):
        return _relative_drop(metric, limit, drop=drop, before=before, report=report)
    verb = "gets worse by" if drop > 0 else "gets better by" if drop < 0 else "changes by"
    return _gate(
        name,
        limit,
        value=drop,
        miss=drop - limit if drop > limit + slack else None,
        said=f"{one_line(metric, 40)} {verb} {fmt.metric_amount(metric, drop)}",
        wanted=f"{fmt.metric_amount(metric, limit)} allowed",
        missed=f"{fmt.metric_amount(metric, drop - limit)} too much",
    )


def _relative_drop(
    metric: str, limit: float, *, drop: float, before: float, report: Report
) -> Gate:
    name = f"max_drop.{metric}"
    if not before and drop:
        what = f"relative change of {one_line(metric, 40)} (the original's is 0)"
        return _unmeasured(name, limit, what, report)
    value = drop / abs(before) if before else 0.0
    slack = ROUNDING * max(1.0, limit)
    verb = "gets worse by" if drop > 0 else "gets better by" if drop < 0 else "changes by"
    return _gate(
        name,
        limit,
        value=value,
        miss=value - limit if value > limit + slack else None,
        said=f"{one_line(metric, 40)} {verb} {_percent(abs(value))} of the original's value",
        wanted=f"{_percent(limit)} allowed",
        missed=f"{_percent(value - limit)} too much",
    )


def _percent(value: float) -> str:
    return f"{fmt.number(100 * value)}{fmt.SPACE}%"


def _min_speedup(provider: str, limit: float, report: Report) -> Gate:
    name = f"min_speedup.{provider}"
    shown = fmt.provider(provider)
    measured = report.ratios.speedup.get(provider, {})
    if not measured:
        return _unmeasured(name, limit, f"speedup on {shown}", report)
    for batch in _asked_batches(report):
        if str(batch) not in measured:
            return _unmeasured(name, limit, f"speedup on {shown} at batch {batch}", report)
    batch_size = min(measured, key=lambda b: (measured[b].low, int(b)))
    worst = measured[batch_size]
    return _gate(
        name,
        limit,
        value=worst.low,
        miss=limit - worst.low if worst.low < limit else None,
        said=f"{shown} is at least {fmt.ratio(worst.low)} as fast at batch {batch_size} "
        f"(interval {fmt.interval(worst.low, worst.high)})",
        wanted=f"{fmt.ratio(limit)} wanted at every batch size",
        missed=f"{fmt.ratio(limit - worst.low)} short",
    )


def _max_latency(provider: str, limit: float, report: Report) -> Gate:
    name = f"max_latency_ms.{provider}"
    latency = report.compressed.latency.get(provider)
    if latency is None:
        return _unmeasured(name, limit, f"latency on {fmt.provider(provider)}", report)
    # The end of the interval: a median that is met by luck isn't met. Version 1 recorded none.
    value = latency.median_ms if latency.high_ms is None else latency.high_ms
    interval = ""
    if latency.low_ms is not None and latency.high_ms is not None:
        ends = fmt.milliseconds(latency.low_ms), fmt.milliseconds(latency.high_ms)
        interval = f", interval {ends[0]} to {ends[1]}"
    return _gate(
        name,
        limit,
        value=value,
        miss=value - limit if value > limit else None,
        said=f"{fmt.provider(provider)} takes {fmt.milliseconds(latency.median_ms)} (median{interval}) "
        f"at batch {latency.batch_size}",
        wanted=f"{fmt.milliseconds(limit)} allowed",
        missed=f"{fmt.milliseconds(value - limit)} too long",
    )


def _max_file(limit: int, report: Report) -> Gate:
    value = report.compressed.file_bytes
    return _gate(
        "max_file_bytes",
        limit,
        value=value,
        miss=value - limit if value > limit else None,
        said=f"the file has {fmt.count(value)} bytes",
        wanted=f"{fmt.count(limit)} allowed",
        missed=f"{fmt.count(value - limit)} too many",
    )


def _compression(limit: float, report: Report) -> Gate:
    value = report.ratios.parameters
    if value is None:
        return _unmeasured("min_compression", limit, "ratio of parameters (none are left)", report)
    return _gate(
        "min_compression",
        limit,
        value=value,
        miss=limit - value if value < limit * (1 - ROUNDING) else None,
        said=f"{fmt.ratio(value)} fewer parameters",
        wanted=f"{fmt.ratio(limit)} wanted",
        missed=f"{fmt.ratio(limit - value)} short",
    )


def _gate(
    name: str,
    limit: float,
    *,
    value: float,
    miss: float | None,
    said: str,
    wanted: str,
    missed: str,
) -> Gate:
    message = f"{said}; {wanted}" + ("" if miss is None else f"; {missed}")
    return Gate(name=name, limit=limit, value=value, passed=miss is None, message=message)


def _unmeasured(name: str, limit: float, what: str, report: Report) -> Gate:
    """Return the failed gate, with the reason where the run recorded one."""
    subject = name.rpartition(".")[2]
    reasons = [u.reason for u in report.unmeasured if subject in u.what]
    because = f": {one_line(reasons[0], 160)}" if reasons else ""
    shown = fmt.number(limit)
    return Gate(
        name=name,
        limit=limit,
        value=None,
        passed=False,
        message=f"the {what} was not measured{because}; the limit is {shown}",
    )


def _asked_batches(report: Report) -> list[int]:
    """Return the batch sizes of the run's spec; each one that is missing was not measured."""
    benchmark = report.spec.get("benchmark")
    sizes = benchmark.get("batch_sizes") if isinstance(benchmark, Mapping) else None
    return [s for s in sizes if isinstance(s, int)] if isinstance(sizes, list) else []
