"""A model against itself, again and again: how often the interval of its speedup holds 1.

    python models/speed/against_itself.py models/lenet5/lenet5.onnx --tries 20

Prints a line a try and exits with 1 when an interval misses 1. `--record` keeps the outcome in
`against_itself.json` beside this file, with what it ran on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.bench import Setting, Unmeasured, compare, environment
from onnxadmm.graph import load_model, pin_dims, random_inputs

RECORD = Path(__file__).with_suffix(".json")


def main() -> int:
    """Run the tries; return the exit status."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("models", type=Path, nargs="+", help="taken in turn")
    options.add_argument("--tries", type=int, default=20)
    options.add_argument("--rounds", type=int, default=100)
    options.add_argument("--provider", default="cpu")
    options.add_argument("--batch-size", type=int, default=1)
    options.add_argument("--record", action="store_true")
    wanted = options.parse_args()
    tries = []
    for number in range(wanted.tries):
        path = wanted.models[number % len(wanted.models)]
        found = measure(path, wanted, number)
        tries.append(found)
        said = "holds" if found["holds"] else "MISSES"
        print(
            f"{number + 1:3} {path.name:32} {found['ratio']:.3f} "
            f"({found['low']:.3f} to {found['high']:.3f}) {said} 1",
            flush=True,
        )
    held = sum(found["holds"] for found in tries)
    print(f"{held} of {len(tries)} intervals hold 1")
    if wanted.record:
        setting = {n: getattr(wanted, n) for n in ("rounds", "provider", "batch_size")}
        document = {**setting, "held": held, "tries": tries, "environment": environment()}
        RECORD.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return int(held < len(tries))


def measure(path: Path, wanted: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Compare a model with itself once; load is how many processes wanted a core meanwhile."""
    model = load_model(path)
    setting = Setting(wanted.provider, wanted.batch_size, 1)
    (found,) = compare(
        {"a": path, "b": path}, [setting], partial(feed, model), rounds=wanted.rounds, seed=seed
    )
    if isinstance(found, Unmeasured):
        sys.exit(f"error: {path.name}: {found.reason}")
    speedup = found.speedups["b"]
    return {
        "model": path.name,
        "ratio": round(speedup.ratio, 4),
        "low": round(speedup.low, 4),
        "high": round(speedup.high, 4),
        "holds": speedup.low <= 1 <= speedup.high,
        "load": round(os.getloadavg()[0], 1),
    }


def feed(model: ir.Model, batch_size: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return random inputs, the same ones every time."""
    return random_inputs(model, pin_dims(model, batch_size), np.random.default_rng(0))


if __name__ == "__main__":
    sys.exit(main())
