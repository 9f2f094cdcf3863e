"""Run a spec of this folder and record what it measured in `results.json` and in the README's table.

    python models/lenet5/record.py demo.yaml [--output DIR]

What stands in the table is what this command saw, with the date and the versions it saw it with.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxadmm
from onnxadmm.report import formatting

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- results: written by record.py -->", "<!-- end of results -->"
HEADER = (
    "| spec | accuracy, original | result | parameters | MACs | file | float faster, batch 1 / 64 | "
    "int8 faster, batch 1 / 64 | gates | run | measured |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---|---:|---|"
)


def measure(spec: Path, output: Path) -> dict[str, Any]:
    """Compress LeNet-5 by a spec and return what the table shows."""
    started = datetime.now(UTC)
    result = onnxadmm.compress(HERE / "lenet5.onnx", spec, output=output)
    report, ratios = result.report, result.report.ratios
    floats = (report.pruned_ratios or ratios).speedup.get("cpu", {})
    return {
        "original": report.original.metrics.get("accuracy"),
        "result": report.compressed.metrics.get("accuracy"),
        "parameters": ratios.parameters,
        "macs": ratios.macs,
        "file": ratios.file_bytes,
        "float_speedup": {b: s.ratio for b, s in floats.items()},
        "int8_speedup": {b: s.ratio for b, s in ratios.speedup.get("cpu", {}).items()}
        if report.pruned
        else {},
        "gates": f"{sum(g.passed for g in report.gates)} of {len(report.gates)}",
        "minutes": (datetime.now(UTC) - started).total_seconds() / 60,
        "date": started.date().isoformat(),
        "versions": f"torch {version('torch').split('+')[0]}, ORT {report.environment['onnxruntime']}",
        "cpu": f"{report.environment['cpu']}, {report.environment['cores_physical']} cores",
    }


def row(spec: str, r: dict[str, Any]) -> str:
    """Return one line of the table."""

    def speed(ratios: dict[str, float]) -> str:
        return " / ".join(formatting.ratio(v) for v in ratios.values()) or "–"

    cells = [
        f"`{spec}`",
        f"{100 * r['original']:.2f} %",
        f"{100 * r['result']:.2f} %",
        formatting.ratio(r["parameters"]),
        formatting.ratio(r["macs"]),
        formatting.ratio(r["file"]),
        speed(r["float_speedup"]),
        speed(r["int8_speedup"]),
        r["gates"],
        f"{r['minutes']:.1f} min",
        f"{r['date']}, {r['cpu']}, {r['versions']}",
    ]
    return f"| {' | '.join(cells)} |"


def write_table(path: Path, results: dict[str, Any]) -> None:
    """Write the table between the markers of a Markdown file."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    rows = "\n".join(row(s, r) for s, r in sorted(results.items()))
    path.write_text(f"{before}{BEGIN}\n{HEADER}\n{rows}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Run, record, rewrite the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--output", type=Path, help="keep the result in this folder")
    args = parser.parse_args()
    spec = HERE / args.spec.name
    with tempfile.TemporaryDirectory() as scratch:
        measured = measure(spec, args.output or Path(scratch) / "result")
    store = HERE / "results.json"
    results = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    results[spec.name] = measured
    store.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for readme in (HERE / "README.md", HERE.parents[1] / "README.md"):
        write_table(readme, results)
    print(row(spec.name, measured))


if __name__ == "__main__":
    main()
