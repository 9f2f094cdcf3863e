"""Import one ONNX file, compare it with ONNX Runtime, cut half of every class and prove the cut.

python models/exports/trial.py import|cut FILE

Prints one JSON object. Import and cut are a process each, so that memory and crashes are their own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

import onnxadmm
from onnxadmm import bench
from onnxadmm.errors import OnnxadmmError
from onnxadmm.graph import compare_outputs, load_model, model_bytes, probe, random_inputs
from onnxadmm.modules import import_model
from onnxadmm.report import Report

BATCHES = (1, 3)
HALF = {
    "version": 1,
    "prune": [{"structure": "channel", "amount": 0.5}],
    "benchmark": {"providers": []},
}


def imported(path: Path) -> dict[str, Any]:
    """Return how the torch module compares with ONNX Runtime; a refusal is part of it."""
    started = time.monotonic()
    try:
        result: dict[str, Any] = {"import_error": parity(load_model(path))}
    except OnnxadmmError as e:
        result = {"import_refused": str(e)}
    return {**result, "import_s": round(time.monotonic() - started, 1)}


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
        "held": held(report),
        "cut_s": round(time.monotonic() - started, 1),
    }


def parity(model: ir.Model) -> float:
    """Return the largest error of the torch module against ONNX Runtime, relative to the output.

    At batch 1 and at another one where the batch is open, on random inputs and on positive ones.

    Raises:
        OnnxadmmError: The model can't be imported, or doesn't run.
    """
    seen = probe(model)
    imported = import_model(model, seen)
    imported.module.eval()
    session = bench.open_session(model_bytes(model), name="the original")
    worst = 0.0
    for batch in BATCHES:
        shapes = {
            v.name or "": _shape(v, seen.shapes[v.name or ""], batch)
            for v in model.graph.inputs
            if v.name in imported.inputs
        }
        drawn = random_inputs(model, shapes, np.random.default_rng(batch))
        feed = {n: np.abs(a) if a.dtype.kind == "f" else a for n, a in drawn.items()}
        for inputs in (drawn, feed):
            try:
                expected = session.run(list(imported.outputs), inputs)
            except Exception:  # (ONNX Runtime raises what it likes)
                # Batch 1 ran already: an open batch that the graph itself doesn't honour.
                if batch == 1:
                    raise
                continue
            with torch.inference_mode():
                got = imported.module(
                    *(torch.from_numpy(np.asarray(inputs[n])) for n in imported.inputs)
                )
            worst = max(worst, compare_outputs(expected, [np.asarray(g.numpy()) for g in got]))
    return worst


def _shape(value: ir.Value, ran: tuple[int, ...], batch: int) -> tuple[int, ...]:
    declared = value.shape
    free = declared is not None and len(declared) and not isinstance(declared[0], int)
    return (batch, *ran[1:]) if free else ran


def held(report: Report) -> list[str]:
    """Return why channels stayed, the reason with most channels first."""
    reasons: Counter[str] = Counter()
    for c in report.channels:
        if c.fixed and c.reason and "graph output" not in c.reason:
            reasons[c.reason] += c.size
    return [f"{reason} ({n} channels)" for reason, n in reasons.most_common(3)]


def main() -> None:
    """Try the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("import", "cut"))
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        result = imported(args.file) if args.step == "import" else cut(args.file)
    except Exception as e:  # noqa: BLE001  (a bug of ours is a result too)
        failure = "import_refused" if args.step == "import" else "error"
        result = {failure: f"crash: {type(e).__name__}: {e}"[:300]}
    print(json.dumps(result, allow_nan=True))


if __name__ == "__main__":
    main()
