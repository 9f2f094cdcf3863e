"""Import one ONNX file and try what the import promises, or cut half of every class and prove the cut.

python models/exports/trial.py import|cut FILE

Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from imports_trial import try_import

import onnxadmm
from onnxadmm.errors import OnnxadmmError
from onnxadmm.report import Report

HALF = {
    "version": 1,
    "prune": [{"structure": "channel", "amount": 0.5}],
    "benchmark": {"providers": []},
}


def cut(path: Path) -> dict[str, Any]:
    """Return what a cut of half of every class leaves, proven by the product itself, or its refusal."""
    started = time.monotonic()
    try:
        report = onnxadmm.compress(path, HALF).report
    except OnnxadmmError as e:
        return {"error": str(e)}
    return {
        "parameters": report.original.parameters,
        "kept": report.compressed.parameters / report.original.parameters,
        "kept_macs": report.compressed.macs / max(report.original.macs, 1),
        "cut_error": report.verification.cut_vs_masked_max_error,
        "held": held(report) or apart(path),
        "cut_s": round(time.monotonic() - started, 1),
    }


def held(report: Report) -> list[str]:
    """Return why channels stayed, the reason with most channels first."""
    reasons: Counter[str] = Counter()
    for c in report.channels:
        if c.fixed and c.reason and "graph output" not in c.reason:
            reasons[c.reason] += c.size
    return [f"{reason} ({n} channels)" for reason, n in reasons.most_common(3)]


def apart(path: Path) -> list[str]:
    """Return what holds the largest weights that carry no channels, of those with a hundredth of all parameters."""
    found = onnxadmm.inspect(path)
    return [
        f"{w.reason} ({w.parameters} parameters of {w.name})"
        for w in found.apart
        if w.parameters > found.account.parameters / 100
    ][:3]


def tried(step: str, path: Path) -> dict[str, Any]:
    """Return what a step finds; a bug of ours is a result too."""
    torch.set_num_threads(1)
    try:
        return try_import(path) if step == "import" else cut(path)
    except Exception as e:  # noqa: BLE001  (of any kind)
        failure = "import_refused" if step == "import" else "error"
        return {failure: f"crash: {type(e).__name__}: {e}"[:300]}


def main() -> None:
    """Try the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("import", "cut"))
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    print(json.dumps(tried(args.step, args.file), allow_nan=True))


if __name__ == "__main__":
    main()
