"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from onnxadmm.errors import one_line
from onnxadmm.report import formatting
from onnxadmm.report.benchmark import BenchmarkReport
from onnxadmm.report.benchmark_files import INPUTS, remarks, table
from onnxadmm.report.profiling import ProfileView, views
from onnxadmm.report.run_files import cells, heads
from onnxadmm.report.runs import RunComparison

MINOR = frozenset({"p90", "p99", "samples/s", "GFLOP/s"})
SLOWEST = 5
ENDLESS = 10_000
CELL_WIDTH = 24
DROPPED = ("MACs", "parameters", "median", "gates", "front")
"""Columns that a narrow terminal does without, the first one first."""


def show_benchmark(found: BenchmarkReport) -> None:
    """Print what was measured, a column a model, where the time goes, and what a reader might trip over."""
    out = Console(highlight=False)
    grid = Table(box=None, pad_edge=False)
    grid.add_column("")
    for model in found.models:
        grid.add_column(Text(one_line(model.name, 60)), justify="right")
    for line in table(found):
        if line.minor and line.label not in MINOR:
            continue
        cells = [f"{c.value}\n{c.note}" if c.note else c.value for c in line.cells]
        grid.add_row(Text(f"  {line.label}" if line.minor else line.label), *map(Text, cells))
    out.print(grid)
    for view in views({m.name: m.facts for m in found.models}):
        _show_slowest(out, view)
    out.print(INPUTS[found.inputs], markup=False)
    for text in remarks(found):
        out.print(f"note: {text}", markup=False)


def _show_slowest(out: Console, view: ProfileView) -> None:
    """Print the operators that take most of a run."""
    grid = Table(
        title=Text(f"\nwhere the time goes ({view.provider}, batch {view.batch_size})"),
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    grid.add_column("operator")
    for name in view.models:
        grid.add_column(Text(one_line(name, 60)), justify="right")
    for row in view.operators[:SLOWEST]:
        cells = [f"{c.ms} ({c.share})" if c.ms else formatting.NOTHING for c in row.cells]
        grid.add_row(*map(Text, (row.label, *cells)))
    out.print(grid)


def show_runs(found: RunComparison) -> None:
    """Print the models of several runs, and which are on the Pareto front: as many columns as fit."""
    out = Console(highlight=False)
    grid = _runs(found, ())
    anywhere = out.options.update(width=ENDLESS)
    for number in range(1, len(DROPPED) + 1):
        if Measurement.get(out, anywhere, grid).maximum <= out.width:
            break
        grid = _runs(found, DROPPED[:number])
    out.print(grid)
    for text in found.remarks:
        out.print(f"note: {text}", markup=False)


def _runs(found: RunComparison, dropped: Sequence[str]) -> Table:
    """Return the table without some columns. What is in brackets, or after a comma, stands on a line of its own."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    names = ("", *heads(found), "front")
    shown = [i for i, name in enumerate(names) if name.split(",")[0] not in dropped]
    for i in shown:
        left = names[i] in {"", "run", "model", "front"}
        grid.add_column(
            names[i].replace(", ", "\n", 1),
            justify="left" if left else "right",
            no_wrap=True,
        )
    for point in found.points:
        row = (point.mark, *cells(found, point), "yes" if point.front else "")
        parts = (one_line(row[i], CELL_WIDTH).replace(" (", "\n(", 1) for i in shown)
        grid.add_row(*map(Text, parts))
    return grid
