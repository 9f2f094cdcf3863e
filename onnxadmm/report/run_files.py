"""A comparison of runs as files: `comparison.html`, `.md` and `.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from onnxadmm._version import __version__
from onnxadmm.errors import one_line
from onnxadmm.report import formatting as fmt
from onnxadmm.report.fronts import front_figures
from onnxadmm.report.html import page_template, page_text
from onnxadmm.report.markdown import escape

if TYPE_CHECKING:
    from onnxadmm.report.runs import Point, RunComparison


def render_runs(found: RunComparison) -> dict[str, str]:
    """Return file name -> text."""
    return {
        "comparison.json": found.to_json(),
        "comparison.html": render_runs_html(found),
        "comparison.md": render_runs_markdown(found),
    }


def render_runs_html(found: RunComparison) -> str:
    """Return one self-contained page: the pictures, the table, the remarks."""
    return page_template("comparison.html.jinja").render(
        css=Markup(page_text("report.css") + page_text("comparison.css")),  # noqa: S704  (ours)
        version=__version__,
        title=_title(found),
        heads=heads(found),
        rows=[(p, cells(found, p)) for p in found.points],
        figures=front_figures(found),
        remarks=found.remarks,
        note=_note(found),
        svg=Markup,
    )


def render_runs_markdown(found: RunComparison) -> str:
    """Return a heading, the table and the remarks."""
    top = ["", *heads(found), "front"]
    sides = ["---"] * 3 + ["---:"] * (len(top) - 4) + ["---"]
    lines = [f"### {escape(_title(found))}", "", _line([escape(h) for h in top]), _line(sides)]
    for point in found.points:
        row = [point.mark, *cells(found, point), "yes" if point.front else ""]
        lines.append(_line([escape(c) for c in row]))
    lines += ["", escape(_note(found)), ""]
    lines += [f"- ⚠️ {escape(text)}" for text in found.remarks]
    return "\n".join(lines).rstrip() + "\n"


def _title(found: RunComparison) -> str:
    runs = len({p.run for p in found.points if p.kind == "compressed"})
    best = sum(p.front for p in found.points)
    return f"{fmt.plural(runs, 'run')}, {fmt.plural(best, 'model')} on the Pareto front"


def _note(found: RunComparison) -> str:
    said = ["file size"]
    said += [found.metric] if found.metric else []
    if found.setting:
        unit = "as a share of the original's, from paired runs" if found.relative else "in ms"
        said.append(f"time ({found.where}, {unit})")
    return (
        f"On the front: no other model is at least as good in each of {', '.join(reversed(said))}, "
        "and better in one of them."
    )


def heads(found: RunComparison) -> list[str]:
    """Return the heads of the columns that `cells` fills."""
    columns = ["run", "model"]
    columns += [one_line(found.metric, 40)] if found.metric else []
    columns += [f"median, {found.where}", "faster"] if found.setting else []
    return [*columns, "file", "parameters", "MACs", "gates"]


def cells(found: RunComparison, point: Point) -> list[str]:
    """Return a model's line of the table."""
    row: list[str] = [point.run, point.kind]
    if found.metric:
        row.append(fmt.metric(found.metric, point.metric))
    if found.setting:
        row.append(fmt.milliseconds(point.time.median_ms if point.time else None))
        faster = fmt.NOTHING
        if point.speedup is not None:
            ratio, low, high = point.speedup
            faster = f"{fmt.ratio(ratio)} ({fmt.interval(low, high)})"
        row.append(faster)
    gates = fmt.NOTHING
    if point.gates_failed is not None:
        gates = f"{point.gates_failed} failed" if point.gates_failed else "passed"
    return [
        *row,
        fmt.size(point.file_bytes),
        fmt.count(point.parameters),
        fmt.count(point.macs),
        gates,
    ]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
