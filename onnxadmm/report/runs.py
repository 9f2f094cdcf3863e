"""Several runs side by side: what each model scores, takes and weighs, and which of them no other beats.

Times of different runs were taken at different hours. Where all runs start from the same original, a
model's time is therefore given as a share of the original's, from the paired runs of its own report; the
milliseconds stand beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from onnxadmm.errors import SpecError, one_line
from onnxadmm.report import formatting as fmt
from onnxadmm.report.fields import (
    Count,
    Document,
    Facts,
    Items,
    NonNegative,
    Number,
    Positive,
    PositiveInt,
)
from onnxadmm.report.summary import lower_is_better, metric_names

if TYPE_CHECKING:
    from onnxadmm.report.document import ModelFacts, Ratios, Report
    from onnxadmm.report.timing import SpeedupFacts

Kind = Literal["original", "float", "compressed"]


class Time(Facts):
    """How long a model takes, under the setting of the comparison."""

    median_ms: NonNegative
    value: Positive = Field(
        description="What is compared: a share of the original's time, or ms where the originals differ."
    )
    low: Positive
    high: Positive


class Point(Facts):
    """One model of one run. What the run didn't measure is null."""

    mark: str = Field(description="A letter for the picture.")
    run: str
    kind: Kind = Field(description="float: pruned, before quantization.")
    metric: Number | None
    time: Time | None
    speedup: tuple[Positive, Positive, Positive] | None = Field(
        strict=False, description="Against the run's own original: ratio, and its interval."
    )
    file_bytes: Count
    parameters: Count
    macs: Count
    gates_failed: Count | None = Field(
        description="Null: the run had no gates, or they are not about this model."
    )
    front: bool = Field(
        description="No other model is at least as good in everything and better in something."
    )


class ComparisonDocument(Document):
    """What `comparison.json` holds."""

    version: Literal[1] = Field(1, description="Of this format.")
    kind: Literal["comparison"] = "comparison"
    metric: str | None = Field(description="The one that is compared. Null: the runs share none.")
    provider: str | None = Field(description="Of the times. Null: the runs share no setting.")
    batch_size: PositiveInt | None
    time: Literal["share of the original's", "ms"]
    models: Items[Point] = Field(description="Each original once, then run by run.")
    remarks: Items[str] = ()


def comparison_schema() -> dict[str, Any]:
    """Return the JSON schema (Draft 2020-12) of `comparison.json`."""
    return ComparisonDocument.schema_document()


@dataclass(frozen=True)
class RunComparison:
    """Several runs.

    Attributes:
        points: The models: each original once, then run by run.
        metric: The metric that is compared; None where the runs share none.
        setting: Provider and batch size of the times; None where the runs share none.
        relative: Whether times are shares of the original's.
        remarks: What a reader might trip over.
        rising: Whether more of the metric is better.
    """

    points: tuple[Point, ...]
    metric: str | None
    setting: tuple[str, str] | None
    relative: bool
    remarks: tuple[str, ...]
    rising: bool = True

    def to_json(self) -> str:
        """Return the comparison as JSON."""
        document = ComparisonDocument(
            metric=self.metric,
            provider=self.setting[0] if self.setting else None,
            batch_size=int(self.setting[1]) if self.setting else None,
            time="share of the original's" if self.relative else "ms",
            models=self.points,
            remarks=self.remarks,
        ).model_dump(mode="json")
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def where(self) -> str:
        """`CPU, batch 1`."""
        if self.setting is None:
            return ""
        return f"{fmt.provider(self.setting[0])}, batch{fmt.SPACE}{self.setting[1]}"


def compare_runs(reports: Mapping[str, Report]) -> RunComparison:
    """Compare runs.

    Args:
        reports: The run's name -> its report; at least one.

    Raises:
        SpecError: There are none.
    """
    if not reports:
        raise SpecError("report: no runs to compare; give the folders of one or more")
    metric, setting = _shared_metric(reports), _shared_setting(reports)
    originals = {_identity(r) for r in reports.values()}
    relative = len(originals) == 1
    marks = count()
    points: list[Point] = []
    seen: set[object] = set()

    def add(run: str, kind: Kind, report: Report, facts: ModelFacts, ratios: Ratios | None) -> None:
        speedup = _speedup(ratios, setting)
        judged = kind == "compressed" and report.gates
        points.append(
            Point(
                mark=_mark(next(marks)),
                run=run,
                kind=kind,
                metric=facts.metrics.get(metric) if metric else None,
                time=_time(facts, speedup, setting, relative=relative, original=kind == "original"),
                speedup=(speedup.ratio, speedup.low, speedup.high) if speedup else None,
                file_bytes=facts.file_bytes,
                parameters=facts.parameters,
                macs=facts.macs,
                gates_failed=sum(not g.passed for g in report.gates) if judged else None,
                front=False,
            )
        )

    for report in reports.values():
        if _identity(report) not in seen:
            seen.add(_identity(report))
            add(one_line(report.model, 60), "original", report, report.original, None)
    for run, report in reports.items():
        if report.pruned is not None:
            add(run, "float", report, report.pruned, report.pruned_ratios)
        add(run, "compressed", report, report.compressed, report.ratios)
    rising = metric is None or not any(lower_is_better(metric, r.spec) for r in reports.values())
    front = pareto_front([_costs(p, metric, setting, rising=rising) for p in points])
    return RunComparison(
        tuple(p.model_copy(update={"front": f}) for p, f in zip(points, front, strict=True)),
        metric,
        setting,
        relative,
        tuple(_remarks(reports, metric, setting, relative=relative)),
        rising,
    )


def pareto_front(costs: Sequence[Sequence[float] | None]) -> list[bool]:
    """Say of each candidate whether no other is at most as costly everywhere and cheaper somewhere.

    Args:
        costs: Costs by objective, less is better; None for a candidate that lacks one, which is on no
            front and beats nobody.
    """

    def beats(a: Sequence[float] | None, b: Sequence[float]) -> bool:
        if a is None:
            return False
        pairs = list(zip(a, b, strict=True))
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    return [c is not None and not any(beats(other, c) for other in costs) for c in costs]


def _costs(
    point: Point, metric: str | None, setting: object, *, rising: bool
) -> list[float] | None:
    """Return what the front is about: size, and the metric and the time where they are compared."""
    found = [float(point.file_bytes)]
    if metric is not None:
        if point.metric is None:
            return None
        found.append(-point.metric if rising else point.metric)
    if setting is not None:
        if point.time is None:
            return None
        found.append(point.time.value)
    return found


def _identity(report: Report) -> tuple[object, ...]:
    o = report.original
    return report.model, o.file_bytes, o.parameters, o.macs, tuple(sorted(o.metrics.items()))


def _shared_metric(reports: Mapping[str, Report]) -> str | None:
    """Return the first metric of the first run that all have."""
    first, *others = (metric_names(r) for r in reports.values())
    return next((n for n in first if all(n in names for names in others)), None)


def _shared_setting(reports: Mapping[str, Report]) -> tuple[str, str] | None:
    """Return the first provider and batch size that all runs timed: cpu first, small batches first."""
    found = [
        {(p, b) for p, facts in r.compressed.latency.items() for b in facts.batches}
        for r in reports.values()
    ]
    common = set.intersection(*found)
    return min(common, key=lambda s: (s[0] != "cpu", s[0], int(s[1])), default=None)


def _speedup(ratios: Ratios | None, setting: tuple[str, str] | None) -> SpeedupFacts | None:
    if ratios is None or setting is None:
        return None
    return ratios.speedup.get(setting[0], {}).get(setting[1])


def _time(
    facts: ModelFacts,
    speedup: SpeedupFacts | None,
    setting: tuple[str, str] | None,
    *,
    relative: bool,
    original: bool,
) -> Time | None:
    if setting is None or setting[0] not in facts.latency:
        return None
    batch = facts.latency[setting[0]].batches.get(setting[1])
    if batch is None or not batch.median_ms:
        return None
    median = batch.median_ms
    if not relative:
        return Time(
            median_ms=median,
            value=median,
            low=batch.low_ms or median,
            high=batch.high_ms or median,
        )
    if original:
        return Time(median_ms=median, value=1.0, low=1.0, high=1.0)
    if speedup is None:
        return None
    return Time(
        median_ms=median, value=1 / speedup.ratio, low=1 / speedup.high, high=1 / speedup.low
    )


def _mark(number: int) -> str:
    """A, B, ... Z, A1, B1, ..."""
    turn, letter = divmod(number, len(ascii_uppercase))
    return ascii_uppercase[letter] + (str(turn) if turn else "")


def _remarks(
    reports: Mapping[str, Report],
    metric: str | None,
    setting: tuple[str, str] | None,
    *,
    relative: bool,
) -> list[str]:
    said = []
    if metric is None:
        said.append("The runs share no metric: quality is not compared.")
    if setting is None:
        said.append(
            "The runs were not all timed with one provider and batch size: time is not compared."
        )
    if not relative:
        said.append(
            "The runs start from different originals: times are milliseconds as measured, at different hours."
        )
    for key, what in (
        ("cpu", "CPUs"),
        ("gpu", "GPUs"),
        ("onnxruntime", "versions of ONNX Runtime"),
    ):
        there = {str(r.environment.get(key, "unknown")) for r in reports.values()}
        if len(there) > 1:
            said.append(
                f"The runs were measured with different {what}: {one_line(', '.join(sorted(there)), 160)}."
            )
    for run, report in reports.items():
        if not report.verification.passed:
            said.append(f"The proof of {one_line(run, 60)} failed: don't use its model.")
    return said
