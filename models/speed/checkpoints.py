"""Times what checkpoints cost a run: `python models/speed/checkpoints.py [--rounds 3] [--record]`.

The main job (`models/lenet5/demo.yaml`, without its benchmark) runs with an output folder, so that it keeps checkpoints,
and without one, in turns; a round's ratio is of two runs that followed each other, and every other round the order
is turned. Beside it stands the share of the time that the writing itself took by the clock. Results go to
checkpoints.json with `--record`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import onnxadmm
from onnxadmm.bench import environment
from onnxadmm.pipeline import learning
from onnxadmm.training import Checkpoint, CheckpointStore

FOLDER = Path(__file__).parent
DEMO = FOLDER.parent / "lenet5"
MOST = 1.05


class Timed(CheckpointStore):
    """Notes how long the writing takes."""

    count, size_bytes, seconds = 0, 0, 0.0

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one."""
        started = time.perf_counter()
        super().save(checkpoint)
        Timed.seconds += time.perf_counter() - started
        Timed.count += 1
        Timed.size_bytes = max(Timed.size_bytes, sum(t.nbytes for t in checkpoint.tensors.values()))


def run(overrides: list[str], *, kept: bool) -> dict[str, Any]:
    """Do the job once; return its seconds, and what the checkpoints took."""
    Timed.count, Timed.size_bytes, Timed.seconds = 0, 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        started, computed = time.perf_counter(), time.process_time()
        onnxadmm.compress(
            DEMO / "lenet5.onnx",
            DEMO / "demo.yaml",
            output=Path(folder) / "out" if kept else None,
            overrides=overrides,
        )
        return {
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - computed,
            "writing_s": Timed.seconds,
            "checkpoints": Timed.count,
            "checkpoint_bytes": Timed.size_bytes,
        }


def main() -> int:
    """Measure, print, and record if asked; exit with 1 where checkpoints take more than 5 %."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--record", action="store_true")
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    # Stages look the class up there.
    learning.CheckpointStore = Timed  # type: ignore[misc]
    overrides = ["benchmark={providers: []}", "gates={}", *wanted.overrides]
    rounds = []
    for number in range(wanted.rounds):
        found = {}
        for kept in (True, False) if number % 2 else (False, True):
            found["with" if kept else "without"] = run(overrides, kept=kept)
        rounds.append(found)
        seconds = {name: round(one["seconds"], 1) for name, one in found.items()}
        print(
            f"round {number + 1}: {seconds}, writing {found['with']['writing_s']:.2f} s", flush=True
        )
    ratios = [r["with"]["seconds"] / r["without"]["seconds"] for r in rounds]
    document = {
        "measured": time.strftime("%Y-%m-%d"),
        "threads": wanted.threads,
        "load": round(os.getloadavg()[0], 1),
        "environment": environment(),
        "overrides": wanted.overrides,
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(r, 4) for r in ratios],
        "cpu_ratio": round(
            statistics.median(
                r["with"]["cpu_seconds"] / r["without"]["cpu_seconds"] for r in rounds
            ),
            4,
        ),
        "writing_share": round(
            statistics.median(r["with"]["writing_s"] / r["with"]["seconds"] for r in rounds), 5
        ),
        "rounds": rounds,
    }
    print(json.dumps({n: v for n, v in document.items() if n != "rounds"}, indent=1))
    if wanted.record:
        text = json.dumps(document, indent=1) + "\n"
        (FOLDER / "checkpoints.json").write_text(text, encoding="utf-8")
    return int(document["ratio"] > MOST)


if __name__ == "__main__":
    sys.exit(main())
