"""Time float, float16 and int8 forms of networks, original against cut, and record what was seen.

    python models/speed/record.py --provider cuda --batch-size 1 --batch-size 32

Made for a machine with a GPU: it exports the networks, makes their forms (`forms.py`), times each against the
float original, and writes `results.json` and the table of this folder's README. Where the provider isn't
there, it says so, records nothing and exits with 1. `--network FILE.onnx` times other models; `--dry` records
nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from forms import NETWORKS, forms, original
from readme import write_table

from onnxadmm import bench
from onnxadmm.graph import load_model, pin_dims, random_inputs
from onnxadmm.report import formatting as fmt

HERE = Path(__file__).resolve().parent
HEADER = [
    "network",
    "form",
    "provider, batch",
    "median",
    "against float",
    "file",
    "GPU memory",
    "nodes on the CPU",
    "measured",
]


def main() -> int:
    """Time, print, record; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", action="append", help=f"default: {', '.join(NETWORKS)}")
    parser.add_argument("--provider", action="append", help="default: cuda")
    parser.add_argument("--batch-size", action="append", type=int, help="default: 1 and 32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--models", type=Path, default=HERE / "models", help="where forms are kept")
    parser.add_argument("--dry", action="store_true", help="record nothing")
    wanted = parser.parse_args()
    found: dict[str, Any] = {}
    for network in wanted.network or NETWORKS:
        for provider in wanted.provider or ["cuda"]:
            reason = bench.available_providers().get(provider, "this build has no such provider")
            if reason is not None:
                print(f"error: {reason}", file=sys.stderr)
                return 1
            found |= measure(network, provider, wanted)
    for key, entry in found.items():
        for cells in rows(key, entry):
            print(" | ".join(cells), flush=True)
    if not wanted.dry:
        record(found)
    return 0


def measure(network: str, provider: str, wanted: argparse.Namespace) -> dict[str, Any]:
    """Time all forms of a network with one provider; return an entry a batch size."""
    wanted.models.mkdir(parents=True, exist_ok=True)
    name = Path(network).stem
    files = forms(original(network, wanted.models), wanted.models / name)
    model = load_model(files["float"])
    settings = [bench.Setting(provider, n, wanted.threads) for n in wanted.batch_size or (1, 32)]
    found: dict[str, Any] = {}
    for timing in bench.compare(
        files, settings, partial(feed, model), rounds=wanted.rounds, profiles=True
    ):
        key = f"{name} {provider} {timing.setting.batch_size}"
        if isinstance(timing, bench.Unmeasured):
            print(f"{key}: not measured: {timing.reason}", file=sys.stderr)
            continue
        found[key] = {
            "date": datetime.now(UTC).date().isoformat(),
            "environment": bench.environment(),
            "threads": wanted.threads,
            "forms": {form: _facts(timing, form, files[form]) for form in files},
        }
    return found


def _facts(timing: bench.Comparison, form: str, file: Path) -> dict[str, Any]:
    measured, speedup = timing.measurements[form], timing.speedups.get(form)
    profile = timing.profiles.get(form)
    return {
        "file_bytes": file.stat().st_size,
        "median_ms": measured.latency.median_ms,
        "p90_ms": measured.latency.p90_ms,
        "p99_ms": measured.latency.p99_ms,
        "speedup": [speedup.ratio, speedup.low, speedup.high] if speedup else None,
        "peak_device_bytes": measured.peak_device_bytes,
        "settled": measured.settled,
        "nodes": sum(o.nodes for o in profile.operators) if profile else None,
        "fallbacks": [[f.operator, f.nodes, f.reason] for f in profile.fallbacks]
        if profile
        else None,
        "slowest": [[o.operator, o.ms / profile.run_ms] for o in profile.operators[:5]]
        if profile
        else None,
    }


def feed(model: ir.Model, batch_size: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return random inputs, the same ones every time."""
    return random_inputs(model, pin_dims(model, batch_size), np.random.default_rng(0))


def rows(key: str, entry: dict[str, Any]) -> list[list[str]]:
    """Return the cells of the lines of the table for one network, provider and batch size."""
    network, provider, batch = key.rsplit(" ", 2)
    machine = entry["environment"]
    where = machine.get("gpu") if provider != "cpu" else machine["cpu"]
    when = f"{entry['date']}, {where}, ORT {machine['onnxruntime']}"
    lines = []
    for form, f in entry["forms"].items():
        speedup = f["speedup"]
        away = None if f["fallbacks"] is None else sum(n for _, n, _ in f["fallbacks"])
        cells = [
            network,
            form,
            f"{provider}, {batch}",
            fmt.milliseconds(f["median_ms"]),
            f"{fmt.ratio(speedup[0])} ({fmt.interval(*speedup[1:])})" if speedup else "",
            fmt.size(f["file_bytes"]),
            fmt.size(f["peak_device_bytes"]),
            fmt.NOTHING if away is None or provider == "cpu" else f"{away} of {f['nodes']}",
            when,
        ]
        lines.append(cells)
    return lines


def record(found: dict[str, Any]) -> None:
    """Keep what was found beside what was found before, and rewrite the README's table."""
    store = HERE / "results.json"
    known = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    known |= found
    store.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write_table(
        "record.py", HEADER, [cells for key in sorted(known) for cells in rows(key, known[key])]
    )


if __name__ == "__main__":
    sys.exit(main())
