"""Tables for the terminal."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxadmm.bench import Unmeasured
from onnxadmm.errors import one_line
from onnxadmm.pipeline.benchmarking import Benchmark
from onnxadmm.report import formatting
from onnxadmm.report.run_files import cells, heads
from onnxadmm.report.runs import RunComparison

INPUTS = {"data": "the spec's data", "random": "random, of the right types and shapes"}


def show_benchmark(found: Benchmark) -> None:
    """Print latencies and speedups, a table a setting, and whether the inputs were real."""
    out = Console(highlight=False)
    out.print(f"inputs: {INPUTS[found.inputs]}", markup=False)
    for comparison in found.results:
        if isinstance(comparison, Unmeasured):
            out.print(f"{comparison.setting}: not measured: {comparison.reason}", markup=False)
            continue
        table = Table(
            title=Text(str(comparison.setting)), title_justify="left", box=None, pad_edge=False
        )
        for name in (
            "model",
            "median",
            "p90",
            "p99",
            "samples/s",
            "session",
            "peak memory",
            "speedup",
        ):
            table.add_column(name, justify="left" if name == "model" else "right")
        for name, m in comparison.measurements.items():
            s = comparison.speedups.get(name)
            faster = (
                "baseline"
                if s is None
                else f"{formatting.ratio(s.ratio)} ({s.low:.2f} to {s.high:.2f})"
            )
            table.add_row(
                Text(one_line(name, 60)),
                formatting.milliseconds(m.latency.median_ms),
                formatting.milliseconds(m.latency.p90_ms),
                formatting.milliseconds(m.latency.p99_ms),
                formatting.number(m.latency.throughput_per_s),
                formatting.duration(m.session_s),
                formatting.size(m.peak_memory_bytes),
                faster,
            )
        out.print(table)


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


def to_plain(found: Benchmark) -> list[dict[str, Any]]:
    """Return a benchmark as plain values, for JSON."""
    return [{"inputs": found.inputs, **asdict(c)} for c in found.results]
