"""A benchmark as files: `benchmark.json`, `.html`, `.md` and `.xml` (JUnit)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TYPE_CHECKING

from markupsafe import Markup

from onnxadmm.errors import one_line
from onnxadmm.report import formatting as fmt
from onnxadmm.report.figures import latency_figures
from onnxadmm.report.html import MARKS, page_template, page_text
from onnxadmm.report.junit import render_junit
from onnxadmm.report.markdown import MARKS as MARKDOWN_MARKS
from onnxadmm.report.markdown import escape, shortened
from onnxadmm.report.profiling import OPEN_ROWS, offloaded, slowest, views
from onnxadmm.report.summary import (
    Tone,
    Verdict,
    judged,
    reached,
    settings,
    unmeasured,
    where,
)

if TYPE_CHECKING:
    from onnxadmm.report.benchmark import BenchmarkedModel, BenchmarkReport
    from onnxadmm.report.document import ModelFacts
    from onnxadmm.report.timing import BatchLatency, Timed

INPUTS = {
    "data": "Inputs: samples of the spec's data.",
    "random": "Inputs: random, of the right types and shapes.",
}
MAX_LINES = 10


@dataclass(frozen=True)
class Cell:
    """A value, and how it compares with the first model's."""

    value: str
    note: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True)
class Line:
    """A quantity with a cell a model. `minor` lines are left out where space is short."""

    label: str
    cells: tuple[Cell, ...]
    minor: bool = False


def render_benchmark(found: BenchmarkReport) -> dict[str, str]:
    """Return file name -> text."""
    return {
        "benchmark.json": found.to_json(),
        "benchmark.html": render_benchmark_html(found),
        "benchmark.md": render_benchmark_markdown(found),
        "benchmark.xml": render_junit(title(found), found.gates),
    }


def marks(found: BenchmarkReport) -> dict[str, str]:
    """Return model name -> a letter for the pictures; from the 27th on with a number."""
    letters = len(ascii_uppercase)
    return {
        m.name: ascii_uppercase[i % letters] + (str(i // letters) if i >= letters else "")
        for i, m in enumerate(found.models)
    }


def title(found: BenchmarkReport) -> str:
    """`small.onnx against large.onnx`, or how many models there are."""
    names = [one_line(m.name, 60) for m in found.models]
    if len(names) == 1:
        return names[0]
    if len(names) == 2:  # noqa: PLR2004
        return f"{names[1]} against {names[0]}"
    return f"{len(names) - 1} models against {names[0]}"


def verdict(found: BenchmarkReport) -> Verdict:
    """Say whether all gates were met."""
    return judged(found.gates)


def table(found: BenchmarkReport) -> list[Line]:
    """Return the quantities, the most important first."""
    return list(_lines(found))


def remarks(found: BenchmarkReport) -> list[str]:
    """Say what a reader might trip over."""
    said = [one_line(text, 400) for text in found.warnings]
    first = one_line(found.models[0].name, 60)
    for model in found.models[1:]:
        assert model.ratios is not None
        for setting in model.ratios.timed():
            speed = model.ratios.speedup_at(setting)
            name = one_line(model.name, 60)
            if speed is not None and speed.high < 1:
                said.append(
                    f"{name} is {fmt.ratio(1 / speed.ratio)} slower than {first} ({where(setting)})."
                )
            elif speed is not None and speed.low <= 1:
                said.append(
                    f"No clear difference in speed between {name} and {first} ({where(setting)}): the "
                    f"interval {fmt.interval(speed.low, speed.high)} holds 1."
                )
    for model in found.models:
        restless = [
            s
            for s in model.facts.timed()
            if (f := model.facts.latency_at(s)) and f.settled is False
        ]
        if restless:
            places = "; ".join(map(where, restless))
            said.append(
                f"The times of {one_line(model.name, 60)} had not settled after 2 s of warming up "
                f"({places}): read them with care."
            )
    said += offloaded({m.name: m.facts for m in found.models})
    return said + unmeasured(found.unmeasured)


def render_benchmark_html(found: BenchmarkReport) -> str:
    """Return one self-contained page."""
    said = verdict(found)
    letters = marks(found)
    facts = {letters[m.name]: m.facts for m in found.models}
    named = {m.name: m.facts for m in found.models}
    return page_template("benchmark.html.jinja").render(
        css=Markup(page_text("report.css")),  # noqa: S704  (ours)
        report=found,
        title=title(found),
        verdict=said,
        mark=MARKS[said.state],
        inputs=INPUTS[found.inputs],
        tiles=_tiles(found),
        letters=letters,
        lines=table(found),
        gates=found.gates,
        remarks=remarks(found),
        latency=latency_figures(facts),
        profiles=[(view, slowest(view.layers)) for view in views(named)],
        open_rows=OPEN_ROWS,
        names={name: f"{letter} {name}" for name, letter in letters.items()},
        svg=Markup,
    )


def render_benchmark_markdown(found: BenchmarkReport) -> str:
    """Return what a pull-request comment wants: ten lines and a table."""
    said = verdict(found)
    names = [one_line(m.name, 80) for m in found.models]
    lines = [
        f"### {MARKDOWN_MARKS[said.state]} {escape(title(found))}: {escape(said.text)}",
        "",
        escape(INPUTS[found.inputs]),
        "",
        _row(["", *map(escape, names)]),
        _row(["---"] + ["---:"] * len(names)),
    ]
    for line in table(found):
        if not line.minor:
            shown = [f"{c.value} ({c.note})" if c.note else c.value for c in line.cells]
            lines.append(_row([escape(line.label), *map(escape, shown)]))
    failed = [f"❌ **{escape(g.name)}**: {escape(g.message)}" for g in found.gates if not g.passed]
    noted = [f"⚠️ {escape(text)}" for text in remarks(found)]
    room = MAX_LINES - 3
    gates = shortened(failed, room, "❌ {} more failed; benchmark.html has them")
    noted = shortened(noted, room - len(gates), "⚠️ {} more in benchmark.html")
    lines += ["", *(f"- {text}" for text in (*gates, *noted))]
    made = [f"onnxadmm {found.onnxadmm}"]
    runtime = found.environment.get("onnxruntime")
    made += [f"ONNX Runtime {runtime}"] if runtime is not None else []
    made += [found.created] if found.created else []
    lines += ["", f"<sub>{escape(', '.join(made))}</sub>"]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Tile:
    """A number worth a large typeface."""

    value: str
    label: str
    detail: str
    tone: Tone


def _tiles(found: BenchmarkReport) -> list[Tile]:
    """Return the speedup of each candidate, at most eight of them."""
    tiles = []
    several = len(found.models) > 2  # noqa: PLR2004
    for model in found.models[1:]:
        assert model.ratios is not None
        for setting in model.ratios.timed():
            speed = model.ratios.speedup_at(setting)
            if speed is None:
                continue
            value, label, tone = fmt.ratio(speed.ratio), "faster", "plain"
            if speed.high < 1:
                value, label, tone = fmt.ratio(1 / speed.ratio), "slower", "bad"
            elif speed.low <= 1:
                label = "the speed, no clear difference"
            name = f"{one_line(model.name, 40)}; " if several else ""
            detail = f"{name}{where(setting)}; {fmt.interval(speed.low, speed.high)}"
            tiles.append(Tile(value, label, detail, "bad" if tone == "bad" else "plain"))
    return tiles[:8]


def _lines(found: BenchmarkReport) -> Iterator[Line]:
    models = found.models
    yield Line("File size", _counted(models, "file_bytes", fmt.size))
    if any(m.facts.parameters for m in models):
        yield Line("Parameters", _counted(models, "parameters", fmt.count))
    if any(m.facts.macs for m in models):
        yield Line("MACs a sample", _counted(models, "macs", fmt.count))
    for name in dict.fromkeys(n for m in models for n in m.facts.metrics):
        yield Line(one_line(name, 40).capitalize(), tuple(_scored(m, name) for m in models))
    for setting in settings(m.facts for m in models):
        yield from _timed(models, setting)
    yield Line("Peak memory", _counted(models, "peak_memory_bytes", fmt.size))
    for provider in sorted({p for m in models for p in m.facts.latency}):
        held = [_on_device(m.facts, provider) for m in models]
        if any(b is not None for b in held):
            yield Line(
                f"GPU memory, {fmt.provider(provider)}", tuple(Cell(fmt.size(b)) for b in held)
            )
    yield Line("Session start", tuple(Cell(fmt.duration(m.facts.session_s)) for m in models))


def _timed(models: Sequence[BenchmarkedModel], setting: Timed) -> Iterator[Line]:
    found = [m.facts.latency_at(setting) for m in models]
    speeds = [m.ratios.speedup_at(setting) if m.ratios else None for m in models]
    yield Line(
        f"Latency, {where(setting)}",
        tuple(
            Cell(
                fmt.milliseconds(facts.median_ms if facts else None),
                f"{fmt.ratio(s.ratio)}; {fmt.interval(s.low, s.high)}" if s else "",
                "bad" if s and s.high < 1 else "plain",
            )
            for facts, s in zip(found, speeds, strict=True)
        ),
    )
    minor: dict[str, Callable[[BatchLatency], str]] = {
        "p90": lambda f: fmt.milliseconds(f.p90_ms),
        "p99": lambda f: fmt.milliseconds(f.p99_ms),
        "samples/s": lambda f: fmt.number(f.throughput_per_s),
        "GFLOP/s": reached,
        "first run": lambda f: fmt.milliseconds(f.first_run_ms),
    }
    for label, shown in minor.items():
        values = [shown(f) if f else fmt.NOTHING for f in found]
        if any(v != fmt.NOTHING for v in values):
            yield Line(label, tuple(map(Cell, values)), minor=True)


def _on_device(facts: ModelFacts, provider: str) -> int | None:
    latency = facts.latency.get(provider)
    return latency.peak_device_bytes if latency else None


def _counted(
    models: Sequence[BenchmarkedModel], attribute: str, shown: Callable[[int | None], str]
) -> tuple[Cell, ...]:
    return tuple(
        Cell(
            shown(getattr(m.facts, attribute)),
            fmt.ratio(getattr(m.ratios, attribute)) if m.ratios else "",
        )
        for m in models
    )


def _scored(model: BenchmarkedModel, name: str) -> Cell:
    value = fmt.metric(name, model.facts.metrics.get(name))
    if model.ratios is None or name not in model.ratios.metrics:
        return Cell(value)
    note = fmt.metric_change(name, model.ratios.metrics[name])
    change = model.ratios.metric_changes.get(name)
    if change is not None:
        note += f"; {fmt.metric_interval(name, change.low, change.high)}"
    return Cell(value, note)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
