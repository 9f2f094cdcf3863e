"""What a report says, before it is HTML, Markdown or a terminal's table.

The verdict, the headline numbers, the rows of the comparison and the remarks are made here once,
so that the three never disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

from onnxadmm.errors import one_line
from onnxadmm.report import formatting as fmt
from onnxadmm.report.profiling import offloaded

if TYPE_CHECKING:
    from onnxadmm.report.document import Gate, ModelFacts, Ratios, Report, Unmeasured
    from onnxadmm.report.timing import BatchLatency, SpeedupFacts, Timed

Tone = Literal["good", "bad", "plain"]
# Fewer zeros than this share are what any trained model has.
MANY_ZEROS = 0.2
# Ratios within this of 1 show as 1.00×.
SAME = 0.005


@dataclass(frozen=True)
class Verdict:
    """The one thing to know."""

    state: Literal["passed", "failed", "none"]
    text: str


@dataclass(frozen=True)
class Headline:
    """A number worth a large typeface."""

    value: str
    label: str
    detail: str
    tone: Tone = "plain"

    @property
    def sentence(self) -> str:
        """`44.2× smaller file`."""
        return f"{self.value} {self.label}"


@dataclass(frozen=True)
class Row:
    """A line of the comparison. `minor` lines are left out where space is short."""

    label: str
    original: str
    pruned: str
    compressed: str
    change: str
    interval: str = ""
    tone: Tone = "plain"
    minor: bool = False


@dataclass(frozen=True)
class Check:
    """A part of the proof: two computations that must agree."""

    label: str
    error: str
    tolerance: str
    result: str
    tone: Tone


def verdict(report: Report) -> Verdict:
    """Say whether the run met its goals; a failed proof outweighs every gate."""
    if not report.verification.passed:
        return Verdict("failed", "The proof failed: don't use this model")
    return judged(report.gates)


def judged(gates: Sequence[Gate]) -> Verdict:
    """Say how many gates were met."""
    failed = sum(not gate.passed for gate in gates)
    total = len(gates)
    if not total:
        return Verdict("none", "No gates set")
    if failed:
        return Verdict("failed", f"{failed} of {fmt.plural(total, 'gate')} failed")
    return Verdict("passed", "Gate passed" if total == 1 else f"All {total} gates passed")


def headlines(report: Report) -> list[Headline]:
    """Return the headline numbers: size, parameters, MACs, speed, and what it cost."""
    before, after, ratios = report.original, report.compressed, report.ratios
    found = [
        _smaller(
            ratios.file_bytes, "file", fmt.size(before.file_bytes), fmt.size(after.file_bytes)
        ),
        _smaller(
            ratios.parameters,
            "parameters",
            fmt.count(before.parameters),
            fmt.count(after.parameters),
        ),
        _smaller(ratios.macs, "MACs", fmt.count(before.macs), fmt.count(after.macs)),
    ]
    for setting in ratios.timed():
        speedup = ratios.speedup_at(setting)
        found += [] if speedup is None else [_faster(speedup, where(setting))]
    name = next(iter(metric_names(report)), None)
    if name is not None and name in ratios.metrics:
        found.append(
            Headline(
                fmt.metric_change(name, ratios.metrics[name]),
                one_line(name, 40),
                f"{fmt.metric(name, before.metrics.get(name))} → "
                f"{fmt.metric(name, after.metrics.get(name))}",
            )
        )
    return found


def comparison(report: Report) -> list[Row]:
    """Return the rows original, pruned, compressed and change."""
    models = [report.original, report.pruned, report.compressed]
    ratios = report.ratios

    def row(label: str, cells: Iterable[str], change: str = "") -> Row:
        original, pruned, compressed = cells
        return Row(label, original, pruned, compressed, change)

    def each(attribute: str) -> list[int | None]:
        return [getattr(m, attribute) if m else None for m in models]

    rows = [
        row("File size", map(fmt.size, each("file_bytes")), fmt.ratio(ratios.file_bytes)),
        row("Parameters", map(fmt.count, each("parameters")), fmt.ratio(ratios.parameters)),
    ]
    if each("nonzero_parameters") != each("parameters"):
        cells = map(fmt.count, each("nonzero_parameters"))
        rows.append(row("Parameters not zero", cells, fmt.ratio(ratios.nonzero_parameters)))
    rows.append(row("MACs a sample", map(fmt.count, each("macs")), fmt.ratio(ratios.macs)))
    for name in metric_names(report):
        scores = [fmt.metric(name, m.metrics.get(name) if m else None) for m in models]
        difference = ratios.metrics.get(name)
        change = fmt.NOTHING if difference is None else fmt.metric_change(name, difference)
        known = ratios.metric_changes.get(name)
        spread = fmt.metric_interval(name, known.low, known.high) if known else ""
        rows.append(replace(row(one_line(name, 40).capitalize(), scores, change), interval=spread))
    rows += _latency_rows(models, ratios)
    if any(v is not None for v in each("peak_memory_bytes")):
        cells = map(fmt.size, each("peak_memory_bytes"))
        rows.append(row("Peak memory", cells, fmt.ratio(ratios.peak_memory_bytes)))
    rows += _device_rows(models)
    if any(m and m.session_s is not None for m in models):
        starts = [fmt.duration(m.session_s if m else None) for m in models]
        rows.append(row("Session start", starts))
    return rows


def packing(report: Report) -> str | None:
    """Say what the file stores as streams, how small, and how near to their entropy; None for nothing."""
    packed = report.packing
    if not packed:
        return None
    dense, stored = sum(p.dense_bytes for p in packed), sum(p.packed_bytes for p in packed)
    over = stored / (sum(p.entropy_bytes for p in packed) or 1.0) - 1
    return (
        f"Packed: {fmt.plural(len(packed), 'tensor')} of {fmt.size(dense)} in {fmt.size(stored)}, "
        f"{100 * over:.0f} % above their entropy; ONNX Runtime unpacks them when it makes the session"
    )


def remarks(report: Report) -> list[str]:
    """Say in plain words what a reader might trip over: the run's warnings, and what numbers show."""
    said = [one_line(text, 600) for text in report.warnings]
    for setting in report.ratios.timed():
        speedup = report.ratios.speedup_at(setting)
        said += [] if speedup is None else _speed_remarks(setting, speedup)
    said += _slower_in_int8(report)
    if report.compressed.latency and not report.spec.get("data"):
        said.append(
            "Timed with random inputs, of the right types and shapes: the spec has no data."
        )
    said += _restless(report)
    said += offloaded(models_of(report))
    after = report.compressed
    zeros = after.parameters - after.nonzero_parameters
    if zeros > MANY_ZEROS * after.parameters:
        said.append(
            f"{fmt.share(zeros, after.parameters)} of the stored parameters are zero. ONNX Runtime "
            "has no sparse kernels: zeros shrink an archive of the file, never the time."
        )
    said += unmeasured(report.unmeasured)
    return list(dict.fromkeys(said))


def unmeasured(found: Sequence[Unmeasured]) -> list[str]:
    """Return what could not be measured, a sentence a reason."""
    by_reason: dict[str, list[str]] = {}
    for each in found:
        by_reason.setdefault(one_line(each.reason, 300), []).append(one_line(each.what, 120))
    return [f"Not measured: {'; '.join(whats)} ({reason})." for reason, whats in by_reason.items()]


def models_of(report: Report) -> dict[str, ModelFacts]:
    """Return the models of a report by name, the original first."""
    found = {"original": report.original, "pruned": report.pruned, "compressed": report.compressed}
    return {name: model for name, model in found.items() if model is not None}


def proof(report: Report) -> list[Check]:
    """Return the two comparisons of the proof, measured or not."""
    facts = report.verification
    return [
        _check("Cut graph against masked graph", facts.cut_vs_masked_max_error, facts.tolerance),
        _check(
            "Trainable import against ONNX Runtime", facts.import_max_error, facts.import_tolerance
        ),
    ]


def metric_names(report: Report) -> list[str]:
    """Return the metrics that were measured, the objective's own first."""
    names = {n for m in (report.original, report.compressed) for n in m.metrics}
    return sorted(names, key=lambda n: (n != objective_metric(report), n))


def objective_metric(report: Report) -> str:
    """Return the name of the metric that the objective asks for, as the spec resolves it."""
    settings = _objective(report.spec)
    named = settings.get("metric")
    if isinstance(named, str):
        return named.rpartition(":")[2]
    loss = settings.get("loss")
    if loss == "distill" or ":" in str(loss):
        return "agreement"
    return "mse" if loss == "mse" else "accuracy"


def lower_is_better(metric: str, spec: Mapping[str, object]) -> bool:
    """Whether a smaller value of this metric is the better one, by its name or as the run's spec says."""
    settings = _objective(spec)
    own = str(settings.get("metric", "")).endswith(f":{metric}")
    return bool(settings.get("lower_is_better")) if own else fmt.lower_is_better(metric)


def _objective(spec: Mapping[str, object]) -> Mapping[str, object]:
    found = spec.get("objective")
    return found if isinstance(found, Mapping) else {}


def sizes(batches: Iterable[str]) -> list[str]:
    """Return batch sizes in order of size."""
    return sorted(batches, key=int)


def quantized(report: Report) -> bool:
    """Whether the spec asks for int8 activations, so that integer kernels run."""
    entries = report.spec.get("quantize")
    return any(_is_int8(entry) for entry in entries) if isinstance(entries, list) else False


def _is_int8(entry: object) -> bool:
    if not isinstance(entry, Mapping):
        return False
    activations, weights = entry.get("activations"), entry.get("weights")
    if activations is not None:
        return bool(activations != "none")
    weights = weights if isinstance(weights, Mapping) else {}
    # Without a word on activations, weights of 8 uniform bits bring them along.
    uniform = weights.get("levels", "uniform") in {"uniform", None}
    return bool(uniform and weights.get("bits", 8) in {8, None})


def _check(label: str, error: float | None, tolerance: float | None) -> Check:
    if error is None:
        return Check(label, "not measured", fmt.error(tolerance), "", "plain")
    if tolerance is None:
        return Check(label, fmt.error(error), fmt.NOTHING, "", "plain")
    equal = error <= tolerance
    result, tone = ("equal", "good") if equal else ("differs", "bad")
    return Check(label, fmt.error(error), fmt.error(tolerance), result, cast("Tone", tone))


def _smaller(ratio: float | None, what: str, before: str, after: str) -> Headline:
    detail = f"{before} → {after}"
    less, more = ("smaller", "larger") if what == "file" else ("fewer", "more")
    if ratio is not None and 0 < ratio < 1 - SAME:
        return Headline(fmt.ratio(1 / ratio), f"{more} {what}", detail, "bad")
    if ratio is not None and ratio <= 1 + SAME:
        return Headline("Same", "file size" if what == "file" else what, detail)
    return Headline(fmt.ratio(ratio), f"{less} {what}", detail)


def _faster(facts: SpeedupFacts, place: str) -> Headline:
    detail = f"{place}; {fmt.interval(facts.low, facts.high)}"
    if facts.high < 1:
        return Headline(fmt.ratio(1 / facts.ratio), "slower", detail, "bad")
    if facts.low <= 1:
        return Headline(fmt.ratio(facts.ratio), "the speed, no clear difference", detail)
    return Headline(fmt.ratio(facts.ratio), "faster", detail)


def _latency_rows(models: list[ModelFacts | None], ratios: Ratios) -> Iterator[Row]:
    for setting in settings(models):
        cells = [m.latency_at(setting) if m else None for m in models]
        speedup = ratios.speedup_at(setting)
        original, pruned, compressed = (fmt.milliseconds(c.median_ms if c else None) for c in cells)
        yield Row(
            f"Latency, {where(setting)}",
            original,
            pruned,
            compressed,
            change=fmt.ratio(speedup.ratio if speedup else None),
            interval=fmt.interval(speedup.low, speedup.high) if speedup else "",
            tone="bad" if speedup and speedup.high < 1 else "plain",
        )
        for quantile in ("p90", "p99"):
            original, pruned, compressed = (
                fmt.milliseconds(getattr(c, f"{quantile}_ms") if c else None) for c in cells
            )
            yield Row(quantile, original, pruned, compressed, change="", minor=True)
        original, pruned, compressed = (
            fmt.number(c.throughput_per_s) if c else fmt.NOTHING for c in cells
        )
        yield Row("samples/s", original, pruned, compressed, change="", minor=True)
        if any(c is not None and c.gflops is not None for c in cells):
            original, pruned, compressed = (reached(c) for c in cells)
            yield Row("GFLOP/s", original, pruned, compressed, change="", minor=True)


def _device_rows(models: list[ModelFacts | None]) -> Iterator[Row]:
    for provider in sorted({p for m in models if m for p in m.latency}):
        found = [m.latency.get(provider) if m else None for m in models]
        held = [facts.peak_device_bytes if facts else None for facts in found]
        if any(b is not None for b in held):
            original, pruned, compressed = map(fmt.size, held)
            before, after = held[0], held[-1]
            change = fmt.ratio(before / after) if before is not None and after else ""
            label = f"GPU memory, {fmt.provider(provider)}"
            yield Row(label, original, pruned, compressed, change)


def settings(models: Iterable[ModelFacts | None]) -> list[Timed]:
    """Return the settings that any of the models was timed under, in order."""
    return sorted({s for m in models if m for s in m.timed()}, key=lambda s: s.order)


def where(setting: Timed) -> str:
    """`CPU, batch 1`, and the number of threads where it isn't the one that heads the report."""
    said = f"{fmt.provider(setting.provider)}, batch{fmt.SPACE}{setting.batch}"
    return said + (f", {fmt.plural(int(setting.threads), 'thread')}" if setting.threads else "")


def reached(facts: BatchLatency | None) -> str:
    """`12.3 (34 %)`: operations a second, and their share of the machine's peak."""
    if facts is None or facts.gflops is None:
        return fmt.NOTHING
    if facts.peak_share is None:
        return fmt.number(facts.gflops)
    return f"{fmt.number(facts.gflops)} ({fmt.share(facts.peak_share, 1.0)})"


def _speed_remarks(setting: Timed, speedup: SpeedupFacts) -> Iterator[str]:
    place = f"on {fmt.provider(setting.provider)} at batch size {setting.batch}"
    if setting.threads is not None:
        place += f" with {fmt.plural(int(setting.threads), 'thread')}"
    if speedup.high < 1:
        yield (
            f"The compressed model is {fmt.ratio(1 / speedup.ratio)} slower than the original {place}."
        )
    elif speedup.low <= 1:
        yield (
            f"No clear difference in speed {place}: the interval "
            f"{fmt.interval(speedup.low, speedup.high)} holds 1."
        )


def _slower_in_int8(report: Report) -> Iterator[str]:
    """Say where int8 costs time, and which file is the faster one."""
    if not quantized(report) or report.pruned_ratios is None:
        return
    places = []
    for setting in settings([report.compressed]):
        whole = report.ratios.speedup_at(setting)
        floating = report.pruned_ratios.speedup_at(setting)
        # Disjoint intervals: both were measured against the same original.
        if whole is not None and floating is not None and whole.high < floating.low:
            places.append(
                f"{fmt.ratio(whole.ratio)} against {fmt.ratio(floating.ratio)} of the original's speed "
                f"({where(setting)})"
            )
    if places:
        yield (
            f"Quantized to int8 the model is slower than the pruned float model: {', '.join(places)}. int8 "
            "kernels don't pay off for this model on this machine; model.float.onnx is the faster one."
        )


def _restless(report: Report) -> Iterator[str]:
    """Say which models still got faster when their warm-up ended."""
    for name, model in models_of(report).items():
        places = [
            s for s in model.timed() if (facts := model.latency_at(s)) and facts.settled is False
        ]
        if places:
            yield (
                f"The {name} model's times had not settled after 2 s of warming up "
                f"({'; '.join(map(where, places))}): read them with care."
            )
