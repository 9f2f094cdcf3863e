"""Times what ADMM adds to training, and how fast its projections are: `python models/speed/admm.py`.

- The W-step against a plain training step of the same imported network (resnet18, batch 32, ADMM on all convs),
  step by step in turns: the ratio of the medians, and the interval of it.
- The projection of all of resnet50's weights, as unstructured sets, and onto levels of 8 bits by channel (on as many
  cores as the process has, whatever `--threads` says).
- What Z and U take beside the weights.

On one thread times are the process's own CPU time: what others take of the machine isn't the step's. Weights are random:
what is timed doesn't depend on them. Results go to admm.json.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from accelerate import Accelerator
from readme import write_table

from onnxadmm.admm import Constraint, QuantizedWeight, Solver, Unstructured, make_penalty
from onnxadmm.bench import environment
from onnxadmm.data import Dataset
from onnxadmm.graph import probe
from onnxadmm.modules import Imported, import_model
from onnxadmm.quantize import uniform_levels
from onnxadmm.spec import Objective, Schedule
from onnxadmm.training import Goal, Settings, plan_admm
from onnxadmm.training.descent import Descent
from onnxadmm.training.holding import Holding
from onnxadmm.training.optimizers import make_optimizer
from onnxadmm.training.position import Position

RECORD = Path(__file__).with_suffix(".json")
HEADER = [
    "W-step",
    "over a plain step",
    "update of Z and U",
    "projection of resnet50's weights",
    "onto levels of 8 bits",
    "copies a constraint",
    "measured",
]
KEPT = 0.1
MOST_STEP_RATIO, MOST_PROJECTION_S, MOST_COPIES = 1.15, 0.5, 2


def clock() -> float:
    """Return seconds: of the CPU on one thread, of the wall on several."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def imported(name: str, size: int) -> Imported:
    """Export an untrained network and import it, as a run does."""
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(weights=None).eval()
    file = io.BytesIO()
    inputs = (torch.zeros(2, 3, size, size),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, inputs, file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
        )
    model = ir.from_proto(onnx.load_from_string(file.getvalue()))
    return import_model(model, probe(model))


def sets(weights: dict[str, Any], rank: int) -> list[Unstructured]:
    """Return an unstructured set for every weight of at least so many axes."""
    chosen = {n: w for n, w in weights.items() if w.dim() >= rank}
    return [Unstructured(n, w.numel(), int(w.numel() * KEPT)) for n, w in chosen.items()]


def step_ratio(size: int, batch: int, rounds: int) -> dict[str, Any]:
    """Time W-steps and plain steps in turns, on networks of their own."""
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((batch, 3, size, size)).astype(np.float32)
    labels = rng.integers(0, 1000, batch)
    net, plain = imported("resnet18", size), imported("resnet18", size)
    schedule = Schedule()
    settings = Settings(
        train=Dataset({"x": samples}, labels, {}),
        evaluate=None,
        batch_size=batch,
        goal=Goal(Objective()),
        output=0,
        schedule=schedule,
        seed=0,
    )
    convs = sets(net.binding, 4)
    solver = Solver(convs, net.binding, make_penalty("auto", 20))
    accelerator = Accelerator(cpu=True)
    phase = plan_admm(schedule, 1)[0]
    descent = Descent(
        net,
        accelerator,
        phase,
        settings=settings,
        position=Position(),
        holding=Holding(net.binding, {}, accelerator.device),
        solver=solver,
    )
    optimizer = make_optimizer(schedule.optimizer, list(plain.binding.values()))

    def admm() -> None:
        descent.step(net.module, np.arange(batch))

    def usual() -> None:
        loss = F.cross_entropy(plain.module(torch.from_numpy(samples))[0], torch.from_numpy(labels))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    for module in (net.module, plain.module):
        module.train()
    times: dict[str, list[float]] = {"admm": [], "plain": []}
    for number in range(rounds + 2):
        order = [("admm", admm), ("plain", usual)]
        for name, step in order if number % 2 else order[::-1]:
            started = clock()
            step()
            if number > 1:  # the first two warm up
                times[name].append(clock() - started)
    a, p = np.array(times["admm"]), np.array(times["plain"])
    pairs = rng.integers(0, rounds, (2000, rounds))
    drawn = np.median(a[pairs], 1) / np.median(p[pairs], 1)
    started = clock()
    solver.update()
    held = sum(t.numel() for t in solver.state().values())
    return {
        "network": f"resnet18, {size}x{size}, batch {batch}, Adam, ADMM on {len(convs)} convs",
        "rounds": rounds,
        "w_step_median_ms": float(np.median(a) * 1000),
        "plain_step_median_ms": float(np.median(p) * 1000),
        "ratio": float(np.median(a) / np.median(p)),
        "ratio_interval": [float(x) for x in np.percentile(drawn, (2.5, 97.5))],
        "update_ms": (clock() - started) * 1000,
        "copies_a_constraint": held / sum(net.binding[c.tensor].numel() for c in convs),
    }


def projection(rounds: int, bits: int | None = None) -> dict[str, Any]:
    """Time the projection of all of resnet50's weights: onto few of them, or onto levels of so many bits by channel."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
    weights = {n: p.detach() for n, p in network.named_parameters()}
    chosen: list[Constraint] = [*sets(weights, 2)]
    if bits is not None:
        chosen = [QuantizedWeight(n, uniform_levels(bits), 0) for c in chosen for n in c.tensors]
    times = []
    for _ in range(rounds + 1):
        started = clock()
        for c in chosen:
            c.project({n: weights[n] for n in c.tensors})
        times.append(clock() - started)
    return {
        "network": "resnet50",
        "weights": sum(weights[n].numel() for c in chosen for n in c.tensors),
        "median_s": float(np.median(times[1:])),
        "least_s": min(times[1:]),
    }


def row(document: dict[str, Any]) -> list[str]:
    """Return the cells of the README's line."""
    step, machine = document["step"], document["environment"]
    low, high = step["ratio_interval"]
    return [
        step["network"],
        f"{step['ratio']:.3f} ({low:.3f}–{high:.3f})",
        f"{step['update_ms']:.0f} ms",
        f"{document['projection']['median_s']:.2f} s",
        f"{document['onto_8_bits']['median_s']:.2f} s",
        f"{step['copies_a_constraint']:g}",
        f"{document['measured']}, {machine['cpu']}, {document['threads']} threads, torch {document['torch']}",
    ]


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RECORD)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = {
        "step": step_ratio(args.size, 32, args.rounds),
        "projection": projection(args.rounds),
        "onto_8_bits": projection(args.rounds, 8),
    }
    met = {
        f"a W-step takes at most {MOST_STEP_RATIO} plain ones": found["step"]["ratio"]
        <= MOST_STEP_RATIO,
        f"resnet50's weights are projected in {MOST_PROJECTION_S} s": found["projection"][
            "median_s"
        ]
        <= MOST_PROJECTION_S,
        f"and in {MOST_PROJECTION_S} s onto levels of 8 bits": found["onto_8_bits"]["median_s"]
        <= MOST_PROJECTION_S,
        f"Z and U are {MOST_COPIES} copies a constraint": found["step"]["copies_a_constraint"]
        <= MOST_COPIES,
    }
    document = {
        "measured": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "threads": args.threads,
        "torch": torch.__version__,
        "environment": environment(),
        **found,
        "met": met,
    }
    args.output.write_text(json.dumps(document, indent=1) + "\n")
    if args.output == RECORD:
        write_table("admm.py", HEADER, [row(document)])
    print(json.dumps({**found, "met": met}, indent=1))


if __name__ == "__main__":
    main()
