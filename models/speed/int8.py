"""int8 models against ONNX Runtime's own static quantization, and cut and quantized ones against the original.

    python models/exports/exporting.py resnet18 legacy 17 resnet18.onnx
    python models/speed/int8.py resnet18.onnx --cut 0.5

Times in pairs: the original, this project's int8 form and `quantize_static`, each in every setting that can be the
fastest (scales by channel or tensor; theirs also with either sign of activations, after its own preprocessing), the
fastest of ours against the fastest of theirs, and the two with scales by channel, which accuracy asks for. With
`--cut` also the model that lost so much of every class of channels, in int8, against its goal. Calibration is on
random inputs: time doesn't depend on the weights. `--record` keeps the outcome in `int8.json` beside this file, with what it ran on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from readme import write_table

import onnxadmm
from onnxadmm.bench import Setting, Unmeasured, compare, environment
from onnxadmm.graph import load_model, pin_dims, random_inputs
from onnxadmm.quantize import quantize, signed_is_faster
from onnxadmm.report import formatting as fmt
from onnxadmm.spec import ActivationQuantization, Quantize, WeightQuantization

RECORD = Path(__file__).with_suffix(".json")
CALIBRATED_ON = 4
Granularity = Literal["channel", "tensor"]
BY_CHANNEL, BY_TENSOR = "onnxadmm int8, by channel", "onnxadmm int8, by tensor"
CUT = "onnxadmm cut, int8"
THEIRS_BY_CHANNEL = "by channel"
GOALS = {"resnet18": 7.5, "resnet50": 8.5, "mobilenet_v2": 2.9}
"""How many times faster than the original a model is to be, cut by half and in int8, on one thread."""
HEADER = [
    "model",
    "int8 against the original",
    "the best of `quantize_static`",
    "int8 against that",
    "cut and int8 against the original",
    "measured",
]


def main() -> int:
    """Measure each model; return 1 where ours is slower than the best of the other."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("models", type=Path, nargs="+")
    options.add_argument("--cut", type=float, help="the share of every class of channels to cut")
    options.add_argument("--rounds", type=int, default=60)
    options.add_argument("--batch-size", type=int, default=1)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--record", action="store_true")
    wanted = options.parse_args()
    results = [measure(path, wanted) for path in wanted.models]
    if wanted.record:
        setting = {n: getattr(wanted, n) for n in ("cut", "rounds", "batch_size", "threads")}
        today = datetime.now(UTC).date().isoformat()
        document = {**setting, "models": results, "date": today, "environment": environment()}
        RECORD.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        write_table("int8.py", HEADER, rows(document))
    return int(any(r["against_best"]["high"] < 1 for r in results))


def measure(path: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    """Time every form of a model: first against the original, then ours against the best of theirs."""
    original = load_model(path)
    signed = bool(signed_is_faster("cpu", wanted.threads))
    ours = {
        BY_CHANNEL: in_int8(original, signed=signed),
        BY_TENSOR: in_int8(original, signed=signed, granularity="tensor"),
    }
    forms: dict[str, Any] = {"original": path, **ours}
    with tempfile.TemporaryDirectory() as folder:
        theirs = quantized_by_the_runtime(path, Path(folder))
        forms.update(theirs)
        if wanted.cut is not None:
            spec = {
                "version": 1,
                "prune": [{"structure": "channel", "amount": wanted.cut}],
                "benchmark": {"providers": []},
            }
            forms[CUT] = in_int8(onnxadmm.compress(path, spec).model, signed=signed)
        speedups = paired(forms, original, wanted)
        best, alike, mine = (
            max(names, key=lambda n: speedups[n]["ratio"])
            for names in (theirs, [n for n in theirs if n.endswith(THEIRS_BY_CHANNEL)], ours)
        )
        pairs = {"best": (best, mine), "by channel": (alike, BY_CHANNEL)}
        against = {
            kind: paired({a: theirs[a], b: ours[b]}, original, wanted)[b]
            for kind, (a, b) in pairs.items()
        }
    print(f"{path.name}, {'int8' if signed else 'uint8'} activations")
    for name, found in speedups.items():
        print(f"  {name:44} {said(found)} of the original's speed")
    for kind, (a, b) in pairs.items():
        print(f"  {b} against {a}: {said(against[kind])}", flush=True)
    goal = next((g for n, g in GOALS.items() if path.name.startswith(n)), None)
    if wanted.cut is not None and goal is not None:
        reached = speedups[CUT]["ratio"]
        print(f"  {CUT}: {reached:.2f}, the goal is {goal} at a cut by half", flush=True)
    return {
        "model": path.name,
        "signed": signed,
        "speedups": speedups,
        "goal": goal,
        "best": best,
        "fastest": mine,
        "against_best": against["best"],
        "against_by_channel": against["by channel"],
        "load": round(os.getloadavg()[0], 1),
    }


def rows(document: dict[str, Any]) -> list[list[str]]:
    """Return the cells of the README's lines."""
    machine = document["environment"]
    when = f"{document['date']}, {machine['cpu']}, ORT {machine['onnxruntime']}"
    found = []
    for r in document["models"]:
        speedups = r["speedups"]
        mine = speedups[r.get("fastest", "onnxadmm int8")]
        forms = (mine, speedups[r["best"]], r["against_best"], speedups.get(CUT))
        found.append([r["model"], *(said(f) if f else fmt.NOTHING for f in forms), when])
    return found


def in_int8(model: ir.Model, *, signed: bool, granularity: Granularity = "channel") -> ir.Model:
    """Return this project's int8 form of a graph."""
    rule = Quantize(
        weights=WeightQuantization(granularity=granularity),
        activations=ActivationQuantization(calibrate="minmax", signed=signed),
    )
    names = {n.name or "" for n in model.graph}
    return quantize(model, [(rule, names)], inputs(model)).model


def quantized_by_the_runtime(path: Path, folder: Path) -> dict[str, Path]:
    """Return name -> file of `quantize_static`'s forms."""
    prepared = folder / "prepared.onnx"
    quant_pre_process(str(path), str(prepared))
    found: dict[str, Path] = {}
    for activations in (QuantType.QUInt8, QuantType.QInt8):
        for by_channel in (True, False):
            name = f"quantize_static {activations}, by {'channel' if by_channel else 'tensor'}"
            found[name] = folder / f"{len(found)}.onnx"
            quantize_static(
                str(prepared),
                str(found[name]),
                Samples(inputs(load_model(path))),
                quant_format=QuantFormat.QDQ,
                per_channel=by_channel,
                activation_type=activations,
                weight_type=QuantType.QInt8,
            )
    return found


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """Hands `quantize_static` what both are calibrated on."""

    def __init__(self, feeds: list[dict[str, np.ndarray[Any, Any]]]) -> None:
        """Keep the feeds."""
        self._left = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """Return the next feed; None at the end."""
        return next(self._left, None)


def inputs(model: ir.Model) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Return a few random inputs, the same ones every time."""
    rng = np.random.default_rng(0)
    return [random_inputs(model, pin_dims(model, 1), rng) for _ in range(CALIBRATED_ON)]


def feed(model: ir.Model, batch_size: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return random inputs, the same ones every time."""
    return random_inputs(model, pin_dims(model, batch_size), np.random.default_rng(0))


def paired(
    forms: dict[str, Any], original: ir.Model, wanted: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Return name -> speedup against the first form, with its interval."""
    setting = Setting("cpu", wanted.batch_size, wanted.threads)
    (found,) = compare(forms, [setting], partial(feed, original), rounds=wanted.rounds)
    if isinstance(found, Unmeasured):
        sys.exit(f"error: {found.reason}")
    return {
        name: {"ratio": round(s.ratio, 4), "low": round(s.low, 4), "high": round(s.high, 4)}
        for name, s in found.speedups.items()
    }


def said(found: dict[str, float]) -> str:
    """Return a speedup as text."""
    return f"{found['ratio']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


if __name__ == "__main__":
    sys.exit(main())
