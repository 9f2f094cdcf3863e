"""Run every model of `onnx.backend.test` through the importer and write what became of it.

    python tests/parity/record.py [SUITE ...]

writes `results.json` (counts, and every case that isn't right with its reason) and `README.md` beside it. With suites
named only those are run, and what is recorded of the others stays.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from collections import Counter
from pathlib import Path

import backend_models as backend
import onnx
import onnxruntime
import torch

HERE = Path(__file__).resolve().parent
RESULTS, TABLE = HERE / "results.json", HERE / "README.md"


def count(verdicts: list[backend.Verdict]) -> dict[str, dict[str, int]]:
    """Return suite -> verdict -> how many."""
    counts: dict[str, Counter] = {suite: Counter() for suite in backend.SUITES}
    for v in verdicts:
        counts[v.suite][v.verdict] += 1
    return {suite: dict(sorted(c.items())) for suite, c in counts.items() if c}


def table(results: dict) -> str:
    """Return the results for people to read."""
    order = (backend.RIGHT, backend.FROZEN, backend.RUNTIME, backend.REFUSED, backend.WRONG)
    lines = [
        "# Parity with the ONNX standard's own tests",
        "",
        f"Written by `python tests/parity/record.py` on {results['date']}, onnx {results['onnx']}, torch",
        f"{results['torch']}, ONNX Runtime {results['onnxruntime']}. Of `onnx.backend.test`, every model goes",
        "through the importer and is run on its test data:",
        "",
        "- **right**: imported into torch; the outputs are those that the suite expects.",
        "- **frozen**: right, with nodes that ONNX Runtime executes as they are (nothing trained lies before them).",
        "- **as ONNX Runtime**: computes what ONNX Runtime computes, which is not what the suite expects.",
        "- **refused**: not imported, in one line that says why.",
        "- **wrong**: none may be.",
        "",
        "| suite | " + " | ".join(order) + " | all |",
        "|---|" + "---:|" * (len(order) + 1),
    ]
    for suite, counts in results["counts"].items():
        cells = [str(counts.get(o, 0)) for o in order]
        lines.append(f"| {suite} | " + " | ".join(cells) + f" | {sum(counts.values())} |")
    lines += [
        "",
        "## What isn't right, and why",
        "",
        "| suite | model | | reason |",
        "|---|---|---|---|",
    ]
    for miss in results["misses"]:
        reason = miss["reason"].replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {miss['suite']} | {miss['name']} | {miss['verdict']} | {reason} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what the command line names, all of it by default, and write."""
    parser = argparse.ArgumentParser(
        description="Run the standard's own tests through the importer."
    )
    parser.add_argument("suites", nargs="*", default=backend.SUITES, metavar="SUITE")
    suites = parser.parse_args().suites
    verdicts = [backend.judge(c) for c in backend.cases(*suites)]
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    found = count(verdicts)
    kept = {s: c for s, c in before.get("counts", {}).items() if s not in suites}
    misses = [
        {"suite": v.suite, "name": v.name, "verdict": v.verdict, "reason": v.reason}
        for v in verdicts
        if v.verdict not in (backend.RIGHT, backend.FROZEN)
    ] + [m for m in before.get("misses", []) if m["suite"] not in suites]
    results = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "onnx": onnx.__version__,
        "torch": torch.__version__.split("+")[0],
        "onnxruntime": onnxruntime.__version__,
        "counts": {s: {**kept, **found}[s] for s in backend.SUITES if s in {**kept, **found}},
        "misses": sorted(misses, key=lambda m: backend.SUITES.index(m["suite"])),
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    TABLE.write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()
