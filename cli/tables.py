"""Tables for the terminal."""

from __future__ import annotations

from rich.console import Console
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
    """Print the models of several runs, and which are on the Pareto front."""
    out = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in ("", *heads(found), "front"):
        table.add_column(name, justify="left" if name in {"", "run", "model", "front"} else "right")
    for point in found.points:
        row = (point.mark, *cells(found, point), "yes" if point.front else "")
        table.add_row(*(Text(one_line(cell, 60)) for cell in row))
    out.print(table)
    for text in found.remarks:
        out.print(f"note: {text}", markup=False)
