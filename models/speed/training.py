"""A training step of the imported module against the native one's, and what an import takes.

    python models/speed/training.py --cache DIR [NAME ...] [--record]

Each architecture is exported by torch's legacy exporter at opset 17, as users have it (batch normalisation folded
into convolutions), and once with the normalisations kept. Steps (forward, backward, SGD) of the native torchvision
module, twice, and of the imported ones are taken in turns in one process, in an order that is drawn anew in every
round; a ratio is the median over the rounds of what the same round's steps took, so that a busy machine slows
all of them. The native module against itself says how far such a ratio can be trusted. `--record` keeps
the outcome in `training.json` beside this file; networks that were not named keep theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from readme import write_table
from torch import nn

from onnxadmm.bench import environment
from onnxadmm.graph import load_model, probe
from onnxadmm.modules import import_model

RECORD = Path(__file__).with_suffix(".json")
MOST = 1.05
NAMES = ("resnet18", "mobilenet_v2", "vit_b_16")
IMPORTED = "resnet50"
HEADER = ["network", "native again", "imported", "imported, normalisations kept", "measured"]
SIZE, BATCH = 224, 4


def native(name: str) -> nn.Module:
    """Return a torchvision network with seeded random weights and normalisations as a trained one has them.

    A fresh one's are all ones and zeros, which the exporter stores once: a bias would be a running mean as well.
    """
    torch.manual_seed(0)
    network: nn.Module = getattr(torchvision.models, name)(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.8, 1.2)
            for tensor in (module.bias, module.running_mean):
                assert tensor is not None
                nn.init.normal_(tensor, std=0.02)
    return network


def exported(name: str, cache: Path, *, kept: bool) -> Path:
    """Return the file of an export, made where the cache lacks it."""
    file = cache / f"{name}-{'kept' if kept else 'folded'}-17.onnx"
    if not file.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                native(name).eval(),
                (torch.randn(2, 3, SIZE, SIZE),),
                str(file),
                dynamo=False,
                opset_version=17,
                input_names=["input"],
                dynamic_axes={"input": {0: "batch"}},
                do_constant_folding=not kept,
                training=(
                    torch.onnx.TrainingMode.PRESERVE if kept else torch.onnx.TrainingMode.EVAL
                ),
            )
    return file


def imported(file: Path) -> tuple[nn.Module, float]:
    """Return the module of a file, and the seconds of CPU that its import took, graph and probe given."""
    model = load_model(file)
    seen = probe(model)
    started = time.process_time()
    module = import_model(model, seen, statistics=True).module
    return module, time.process_time() - started


def stepper(module: nn.Module) -> Callable[[], None]:
    """Return a function that does one step of training."""
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
    labels = torch.randint(0, 1000, (BATCH,), generator=generator)
    module.train()

    def step() -> None:
        output = module(x)
        logits = output[0] if isinstance(output, tuple) else output
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()

    return step


def ratios(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, dict[str, float]]:
    """Return each one's time over the first one's: median and quartiles over the rounds."""
    rng = np.random.default_rng(0)
    names = list(steps)
    for step in steps.values():
        step()
    taken: dict[str, list[float]] = {n: [] for n in names}
    for _ in range(rounds):
        for place in rng.permutation(len(names)):
            # The CPU's time of this process: what others take of the machine isn't the step's.
            started = time.process_time()
            steps[names[place]]()
            taken[names[place]].append(time.process_time() - started)
    found = {}
    for name in names[1:]:
        each = [b / a for a, b in zip(taken[names[0]], taken[name], strict=True)]
        low, _, high = statistics.quantiles(each, n=4)
        found[name] = {
            "ratio": round(statistics.median(each), 3),
            "low": round(low, 3),
            "high": round(high, 3),
        }
    return found


def measure(name: str, cache: Path, rounds: int) -> dict[str, Any]:
    """Compare one architecture's steps."""
    steps = {"native": stepper(native(name)), "native again": stepper(native(name))}
    for kept in (False, True):
        module, _ = imported(exported(name, cache, kept=kept))
        steps["imported, normalisations kept" if kept else "imported"] = stepper(module)
    return ratios(steps, rounds)


def rows(document: dict[str, Any]) -> list[list[str]]:
    """Return the cells of the README's lines."""
    return [
        [
            name,
            *(f"{r['ratio']:.3f} ({r['low']:.3f}–{r['high']:.3f})" for r in one["ratios"].values()),
            f"{one['date']}, {one['cpu']}, torch {one['torch']}",
        ]
        for name, one in document["networks"].items()
    ]


def main() -> int:
    """Measure what the command line names; exit with 1 where a step takes more than 1.05 times the native one's."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("names", nargs="*", default=list(NAMES))
    options.add_argument("--cache", type=Path, default=Path.home() / ".cache/onnxadmm/exports")
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--record", action="store_true")
    wanted = options.parse_args()
    wanted.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    document: dict[str, Any] = {"networks": {}}
    if RECORD.exists():
        document = json.loads(RECORD.read_text(encoding="utf-8"))
    circumstances = {
        "date": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "cpu": environment()["cpu"],
        "rounds": wanted.rounds,
        "batch_size": BATCH,
        "image": SIZE,
    }
    networks = document["networks"]
    for name in wanted.names:
        found = measure(name, wanted.cache, wanted.rounds)
        load = round(os.getloadavg()[0], 1)
        networks[name] = {"ratios": found, "load": load, **circumstances}
        for what, r in found.items():
            print(
                f"{name:14} {what:30} {r['ratio']:.3f} ({r['low']:.3f} to {r['high']:.3f})",
                flush=True,
            )
    file = exported(IMPORTED, wanted.cache, kept=False)
    imported(file)
    document["import_cpu_s"] = {IMPORTED: round(imported(file)[1], 2)}
    print(f"import of {IMPORTED}: {document['import_cpu_s'][IMPORTED]} s of CPU")
    if wanted.record:
        RECORD.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        write_table("training.py", HEADER, rows(document))
    return int(any(networks[n]["ratios"]["imported"]["ratio"] > MOST for n in wanted.names))


if __name__ == "__main__":
    sys.exit(main())
