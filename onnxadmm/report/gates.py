"""The gates: goals of the spec against what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from onnxadmm.errors import one_line
from onnxadmm.report import formatting as fmt
from onnxadmm.report.document import Gate
from onnxadmm.report.summary import lower_is_better
from onnxadmm.report.timing import Timed

if TYPE_CHECKING:
    from pydantic import JsonValue

    from onnxadmm.report.document import MetricChange, ModelFacts, Ratios, Unmeasured
    from onnxadmm.spec import Drop, Gates


class Measured(Protocol):
    """What gates are judged on: a report, or a model of a benchmark."""

    @property
    def original(self) -> ModelFacts: ...  # noqa: D102
    @property
    def compressed(self) -> ModelFacts: ...  # noqa: D102
    @property
    def ratios(self) -> Ratios: ...  # noqa: D102
    @property
    def unmeasured(self) -> tuple[Unmeasured, ...]: ...  # noqa: D102
    @property
    def spec(self) -> dict[str, JsonValue]: ...  # noqa: D102


@dataclass(frozen=True)
class Candidate:
    """A compressed model as gates look at it, where there is no report of it alone."""

    original: ModelFacts
    compressed: ModelFacts
    ratios: Ratios
    unmeasured: tuple[Unmeasured, ...]
    spec: dict[str, JsonValue]


# 0.9925 - 0.9915 is more than 0.001 in binary. Ten samples of 10,000 are still ten.
ROUNDING = 1e-9


def judge(gates: Gates, report: Measured) -> list[Gate]:
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


def _max_drop(metric: str, wanted: float | Drop, report: Measured) -> Gate:
    name = f"max_drop.{metric}"
    before = report.original.metrics.get(metric)
    after = report.compressed.metrics.get(metric)
    relative = not isinstance(wanted, int | float) and wanted.relative is not None
    limit = wanted if isinstance(wanted, int | float) else wanted.limit
    if before is None or after is None:
        model = "original" if before is None else "compressed model"
        return _unmeasured(name, limit, f"{one_line(metric, 40)} of the {model}", report)
    worse = 1 if lower_is_better(metric, report.spec) else -1
    drop = worse * (after - before)
    if relative and not before and drop:
        what = f"relative change of {one_line(metric, 40)} (the original's is 0)"
        return _unmeasured(name, limit, what, report)
    scale = abs(before) if relative and before else 1.0
    change = report.ratios.metric_changes.get(metric)
    ends = None if change is None else _ends(change, worse, relative=relative)
    by_value = not isinstance(wanted, int | float) and wanted.by == "value"
    # A drop that is small by luck isn't small. Version 1 recorded no interval.
    value = drop / scale if ends is None or by_value else ends[1]
    # The slack is for binary rounding of the difference, which scales with its operands.
    slack = ROUNDING * max(abs(before) / scale, abs(after) / scale, limit)
    verb = "gets worse by" if drop > 0 else "gets better by" if drop < 0 else "changes by"

    def shown(amount: float) -> str:
        return _percent(abs(amount)) if relative else fmt.metric_amount(metric, amount)

    said = f"{one_line(metric, 40)} {verb} {shown(drop / scale)}"
    said += " of the original's value" if relative else ""
    if ends is not None and change is not None:
        signs = [fmt.MINUS if end < 0 else "" for end in ends]
        said += (
            f" (interval {signs[0]}{shown(ends[0])} to {signs[1]}{shown(ends[1])}, "
            f"{fmt.plural(change.samples, 'sample')})"
        )
    miss = value - limit if value > limit + slack else None
    missed = f"{shown(value - limit)} too much"
    if miss is not None and drop / scale <= limit + slack:
        missed += " at the end of the interval, which more samples narrow"
    return _gate(
        name,
        limit,
        value=value,
        miss=miss,
        said=said,
        wanted=f"{shown(limit)} allowed",
        missed=missed,
    )


def _ends(change: MetricChange, worse: int, *, relative: bool) -> tuple[float, float] | None:
    """Return the ends of a drop's interval, the better one first."""
    low, high = (
        (change.relative_low, change.relative_high) if relative else (change.low, change.high)
    )
    if low is None or high is None:
        return None
    return (low, high) if worse > 0 else (-high, -low)


def _percent(value: float) -> str:
    return f"{fmt.number(100 * value)}{fmt.SPACE}%"


def _min_speedup(provider: str, limit: float, report: Measured) -> Gate:
    name = f"min_speedup.{provider}"
    shown = fmt.provider(provider)
    ratios = report.ratios
    found = {
        s: facts
        for s in ratios.timed()
        if s.provider == provider and (facts := ratios.speedup_at(s)) is not None
    }
    if not found:
        return _unmeasured(name, limit, f"speedup on {shown}", report)
    for threads, batch in _asked(report):
        if Timed(provider, threads, batch) not in found:
            where = f"speedup on {shown} at batch {batch}{_on(threads)}"
            return _unmeasured(name, limit, where, report)
    setting = min(found, key=lambda s: (found[s].low, *s.order))
    worst = found[setting]
    everywhere = " and number of threads" if any(s.threads for s in found) else ""
    return _gate(
        name,
        limit,
        value=worst.low,
        miss=limit - worst.low if worst.low < limit else None,
        said=f"{shown} is at least {fmt.ratio(worst.low)} as fast at batch {setting.batch}"
        f"{_on(setting.threads)} (interval {fmt.interval(worst.low, worst.high)})",
        wanted=f"{fmt.ratio(limit)} wanted at every batch size{everywhere}",
        missed=f"{fmt.ratio(limit - worst.low)} short",
    )


def _on(threads: str | None) -> str:
    return "" if threads is None else f" on {fmt.plural(int(threads), 'thread')}"


def _max_latency(provider: str, limit: float, report: Measured) -> Gate:
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


def _max_file(limit: int, report: Measured) -> Gate:
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


def _compression(limit: float, report: Measured) -> Gate:
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


def _unmeasured(name: str, limit: float, what: str, report: Measured) -> Gate:
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


def _asked(report: Measured) -> list[tuple[str | None, str]]:
    """Return threads and batch size of every setting that the run's spec asked for, as `Timed` names them."""
    benchmark = report.spec.get("benchmark")
    if not isinstance(benchmark, Mapping):
        return []
    batches = benchmark.get("batch_sizes")
    sizes = [str(s) for s in batches if isinstance(s, int)] if isinstance(batches, list) else []
    threads = benchmark.get("threads")
    # The first number of threads heads the report.
    more = [str(t) for t in threads[1:] if isinstance(t, int)] if isinstance(threads, list) else []
    return [(t, s) for t in (None, *more) for s in sizes]
