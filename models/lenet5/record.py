"""Run a spec of this folder and record what it measured in `results.json` and in the READMEs' tables.

    python models/lenet5/record.py demo.yaml [--output DIR]
    python models/lenet5/record.py unstructured-71x.yaml --magnitude [--seeds 3] [--output DIR]

With `--magnitude` the spec is run beside plain magnitude pruning: the same data, objective, rates, optimizer and
learning rate, the largest weights of the original kept, and all epochs spent on retraining them. Both run once a
seed. With `--output` finished runs are kept there and not run again, and one that was stopped goes on. `--bf16` trains
in bfloat16 where that is safe (Accelerate's mixed precision; weights, Z and U stay float32): a dense step of LeNet-5
takes 0.63 of the time on a CPU that has it.

What stands in the tables is what this command saw, with the date and the versions it saw it with.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir
import tables

import onnxadmm
from onnxadmm import ops
from onnxadmm.graph import constant_of
from onnxadmm.progress import Silent
from onnxadmm.report import Report
from onnxadmm.spec import Spec, read_spec

HERE = Path(__file__).resolve().parent
MODEL = HERE / "lenet5.onnx"
WEIGHTS = 430_500
"""Of the original, biases not counted, as the papers count."""
FLOAT_BITS = 32
PRECISION = "ACCELERATE_MIXED_PRECISION"
"""What Accelerate reads its precision from."""
LEARNING = ("train", "retrain", "train on levels")


class Printing(Silent):
    """Prints what a run says, an epoch a line."""

    def note(self, text: str) -> None:
        """Print it."""
        print(f"  {text}", flush=True)


def run(spec: Path, output: Path, overrides: Sequence[str] = ()) -> onnxadmm.Result:
    """Compress LeNet-5 into a folder, or take the result that lies there."""
    return onnxadmm.compress(
        MODEL, spec, output=output, overrides=overrides, resume=True, progress=Printing()
    )


def demo(spec: Path, output: Path) -> dict[str, Any]:
    """Run a spec once and return what the table of single runs shows."""
    report = run(spec, output / spec.stem).report
    ratios = report.ratios
    floats = (report.pruned_ratios or ratios).speedup.get("cpu", {})
    int8 = ratios.speedup.get("cpu", {}) if report.pruned else {}
    return {
        "table": tables.DEMO,
        "original": report.original.metrics.get("accuracy"),
        "result": report.compressed.metrics.get("accuracy"),
        "parameters": ratios.parameters,
        "macs": ratios.macs,
        "file": ratios.file_bytes,
        "float_speedup": {b: s.ratio for b, s in floats.items()},
        "int8_speedup": {b: s.ratio for b, s in int8.items()},
        "gates": f"{sum(g.passed for g in report.gates)} of {len(report.gates)}",
        "minutes": minutes(report),
        **circumstances(report),
    }


def beside_magnitude(spec: Path, output: Path, seeds: int) -> dict[str, Any]:
    """Run a spec and its magnitude baseline, once a seed, and return what the papers' table shows."""
    learnt = read_spec(spec)
    plain = baseline(learnt)
    found: dict[str, list[dict[str, Any]]] = {"admm": [], "magnitude": []}
    for seed in range(seeds):
        for method, overrides in (("admm", ()), ("magnitude", plain)):
            print(f"{spec.stem}, {method}, seed {seed}", flush=True)
            folder = output / f"{spec.stem}-{method}-{seed}"
            result = run(spec, folder, (*overrides, f"seed={seed}"))
            found[method].append({"seed": seed, **measured(result, bits_of(learnt))})
            print(f"  accuracy {found[method][-1]['accuracy']:.4f}", flush=True)
    return {
        "table": tables.PAPERS,
        "original": result.report.original.metrics["accuracy"],
        "epochs": epochs_of(learnt),
        **found,
        **circumstances(result.report),
    }


def epochs_of(spec: Spec) -> list[int]:
    """Return the epochs of a spec: ADMM and retraining, and again where levels follow."""
    schedule = spec.schedule
    levels = spec.level_epochs if spec.quantize else 0
    epochs = [schedule.epochs, schedule.retrain] if spec.prune else []
    return epochs + ([levels, schedule.retrain] if levels else [])


def baseline(spec: Spec) -> tuple[str, ...]:
    """Return what makes of a spec its baseline: one projection of the original, and as many epochs of retraining.

    Without ADMM epochs the original is projected: what is largest stays. Levels take one step of ADMM, since without
    any they would be rounded and not trained on.
    """
    epochs = epochs_of(spec)
    retrain = sum(epochs) // (len(epochs) // 2)
    levels = ["schedule.quantize={steps: 1}"] if spec.quantize and spec.level_epochs else []
    return ("schedule.epochs=0", f"schedule.retrain={retrain}", "benchmark.providers=[]", *levels)


def bits_of(spec: Spec) -> int:
    """Return how many bits a weight takes: those of the widest levels, or a float's."""
    return max((q.weights.resolved_bits for q in spec.quantize), default=FLOAT_BITS)


def measured(result: onnxadmm.Result, bits: int) -> dict[str, Any]:
    """Return what one run reached; ratios are original over compressed, of what isn't zero.

    Weight data is what the papers call so: weights that aren't zero times their bits, without their places.
    """
    left = weights_left(result.pruned)
    report = result.report
    pruned, ratios = report.pruned or report.compressed, report.pruned_ratios or report.ratios
    return {
        "accuracy": report.compressed.metrics["accuracy"],
        "weights": WEIGHTS / left,
        "weight_data": WEIGHTS * FLOAT_BITS / (left * bits),
        "parameters": report.original.parameters / pruned.nonzero_parameters,
        "macs": ratios.macs,
        "file": report.ratios.file_bytes,
        "file_bytes": report.compressed.file_bytes,
        "float_speedup": {b: s.ratio for b, s in ratios.speedup.get("cpu", {}).items()},
        "minutes": minutes(report),
    }


def weights_left(model: ir.Model) -> int:
    """Count the weights that aren't zero, biases left out."""
    contents = (constant_of(v) for v in ops.weights(model).values())
    return sum(int((c != 0).sum()) for c in contents if c is not None and c.ndim > 1)


def minutes(report: Report) -> float:
    """Return how long a run took, all parts of it where it was stopped and resumed."""
    other = sum(s.seconds for s in report.stages if s.name not in LEARNING)
    return (other + sum(e.seconds for e in report.history)) / 60


def circumstances(report: Report) -> dict[str, str]:
    """Return when and with what a report was made."""
    precision = ", bf16" if os.environ.get(PRECISION) == "bf16" else ""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": f"torch {version('torch').split('+')[0]}{precision}, ORT {report.environment['onnxruntime']}",
        "cpu": f"{report.environment['cpu']}, {report.environment['cores_physical']} cores",
    }


def main() -> None:
    """Run, record, rewrite the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--magnitude", action="store_true", help="beside magnitude pruning")
    parser.add_argument("--seeds", type=int, default=1, help="with --magnitude: runs of each")
    parser.add_argument("--bf16", action="store_true", help="train in mixed precision")
    parser.add_argument("--output", type=Path, help="keep the results in this folder")
    args = parser.parse_args()
    if args.bf16:
        os.environ[PRECISION] = "bf16"
    spec = HERE / args.spec.name
    with tempfile.TemporaryDirectory() as scratch:
        output = args.output or Path(scratch)
        output.mkdir(exist_ok=True)
        found = beside_magnitude(spec, output, args.seeds) if args.magnitude else demo(spec, output)
    store = HERE / "results.json"
    results = json.loads(store.read_text(encoding="utf-8"))
    results[spec.name] = found
    store.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for readme in (HERE / "README.md", HERE.parents[1] / "README.md"):
        for kind in tables.HEADERS:
            tables.write_table(readme, kind, results)
    line = tables.papers_row if args.magnitude else tables.demo_row
    print(line(spec.name, found))


if __name__ == "__main__":
    main()
