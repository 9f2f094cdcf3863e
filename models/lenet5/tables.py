"""The tables of the READMEs, from what `record.py` measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxadmm.report import formatting

DEMO = "results"
PAPERS = "papers"
HEADERS = {
    DEMO: (
        "| spec | accuracy, original | result | parameters | MACs | file | float faster, batch 1 / 64 | "
        "int8 faster, batch 1 / 64 | gates | run | measured |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---|---:|---|"
    ),
    PAPERS: (
        "| spec | weights | weight data | parameters | MACs | file | float faster, batch 1 / 64 | epochs | ADMM | magnitude | "
        "ADMM loses | a run | measured |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|"
    ),
}


def demo_row(spec: str, r: Mapping[str, Any]) -> str:
    """Return one line of the table of single runs."""
    cells = [
        f"`{spec}`",
        f"{100 * r['original']:.2f} %",
        f"{100 * r['result']:.2f} %",
        formatting.ratio(r["parameters"]),
        formatting.ratio(r["macs"]),
        formatting.ratio(r["file"]),
        _speed(r["float_speedup"]),
        _speed(r["int8_speedup"]),
        r["gates"],
        f"{r['minutes']:.1f} min",
        f"{r['date']}, {r['cpu']}, {r['versions']}",
    ]
    return f"| {' | '.join(cells)} |"


def papers_row(spec: str, r: Mapping[str, Any]) -> str:
    """Return one line of the papers' table: ADMM beside magnitude pruning.

    Ratios are the smallest of all seeds, minutes the longest.
    """
    runs: Sequence[Mapping[str, Any]] = r["admm"]
    reached = [run["accuracy"] for run in runs]
    cells = [
        f"`{spec}`",
        formatting.ratio(min(run["weights"] for run in runs)),
        formatting.ratio(min(run["weight_data"] for run in runs)),
        formatting.ratio(min(run["parameters"] for run in runs)),
        formatting.ratio(min(run["macs"] for run in runs)),
        formatting.ratio(min(run["file"] for run in runs)),
        _speed(runs[0]["float_speedup"]),
        " + ".join(str(e) for e in r["epochs"]),
        accuracies(reached),
        accuracies([run["accuracy"] for run in r["magnitude"]]),
        f"{100 * (r['original'] - statistics.fmean(reached)):.2f} points",
        f"{max(run['minutes'] for run in runs):.1f} min",
        f"{r['date']}, {r['cpu']}, {r['versions']}",
    ]
    return f"| {' | '.join(cells)} |"


def accuracies(values: Sequence[float]) -> str:
    """Return `99.21 %` of one seed, `99.20 ± 0.03 % (3)` of several: mean, standard deviation, how many."""
    if not values:
        return formatting.NOTHING
    mean = 100 * statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.2f} %"
    return f"{mean:.2f} ± {100 * statistics.stdev(values):.2f} % ({len(values)})"


def write_table(path: Path, kind: str, results: Mapping[str, Any]) -> None:
    """Write a table between its markers in a Markdown file; a file without them stays as it is."""
    begin, end = f"<!-- {kind}: written by record.py -->", f"<!-- end of {kind} -->"
    text = path.read_text(encoding="utf-8")
    if begin not in text:
        return
    before, rest = text.split(begin)
    _, after = rest.split(end)
    line = {DEMO: demo_row, PAPERS: papers_row}[kind]
    rows = [line(s, r) for s, r in sorted(results.items()) if r["table"] == kind]
    table = "\n".join([HEADERS[kind], *rows])
    path.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")


def _speed(ratios: Mapping[str, float]) -> str:
    return " / ".join(formatting.ratio(v) for v in ratios.values()) or formatting.NOTHING
