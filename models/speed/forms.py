"""The forms of a network that are timed against each other: float, 16 bits and int8, original and cut by half.

Speed doesn't depend on what the weights are, so that the networks are untrained, and the cut is one shot.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml

import onnxadmm
from onnxadmm.graph import load_model, pin_dims, random_inputs

MODELS = Path(__file__).resolve().parents[1]
NETWORKS = ("lenet5", "resnet50", "vit_b_16")
CUT = {"prune": [{"structure": "channel", "amount": 0.5}]}
INT8 = {"quantize": [{"layers": "*", "activations": {"samples": 4}}]}
_SAMPLES = 4


def original(network: str, folder: Path) -> Path:
    """Return a network's file, exported into the folder if it isn't of this repository.

    Args:
        network: One of `NETWORKS`, another name that `models/exports` knows, or a file.
        folder: Where exported models are kept, and found again.
    """
    if network.endswith(".onnx"):
        return Path(network)
    if network == "lenet5":
        return MODELS / "lenet5" / "lenet5.onnx"
    path = folder / f"{network}.onnx"
    if not path.exists():
        script = MODELS / "exports" / "exporting.py"
        subprocess.run(  # noqa: S603  (our own script)
            [sys.executable, script, network, "legacy", "17", path], check=True
        )
    return path


def forms(path: Path, folder: Path) -> dict[str, Path]:
    """Make all forms of a model.

    Args:
        path: The model, float32.
        folder: Where they go; those that are there already are taken.

    Returns:
        Form -> its file: float, float16, int8, then the same of the cut model.
    """
    found = {"float": path, "float16": folder / "float16.onnx", "int8": folder / "int8.onnx"}
    found |= {f"cut {form}": folder / f"cut-{form}.onnx" for form in found}
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "spec.yaml"
    if not found["cut float"].exists():
        _compress(path, spec, CUT, found["cut float"])
    for before in ("", "cut "):
        if not found[f"{before}float16"].exists():
            _halve(found[f"{before}float"], found[f"{before}float16"])
        if not found[f"{before}int8"].exists():
            data = _calibration(path, folder)
            _compress(found[f"{before}float"], spec, {**INT8, **data}, found[f"{before}int8"])
    return found


def _compress(path: Path, spec: Path, sections: dict[str, Any], result: Path) -> None:
    """Compress in one shot, timing nothing."""
    whole = {
        "version": 1,
        "schedule": {"epochs": 0, "retrain": 0},
        "benchmark": {"providers": []},
        **sections,
    }
    spec.write_text(yaml.safe_dump(whole), encoding="utf-8")
    made = onnxadmm.compress(path, spec)
    result.write_bytes(_content(made.files["model.onnx"]))


def _content(content: object) -> bytes:
    return content if isinstance(content, bytes) else b"".join(content)  # type: ignore[call-overload, no-any-return]


def _calibration(path: Path, folder: Path) -> dict[str, Any]:
    """Write samples for the activations' ranges, and return the sections that name them."""
    model = load_model(path)
    drawn = random_inputs(model, pin_dims(model, _SAMPLES), np.random.default_rng(0))
    np.savez(folder / "samples.npz", **drawn)  # type: ignore[arg-type]
    inputs = dict.fromkeys(drawn, "samples.npz")
    return {"data": {"train": {"inputs": inputs}}, "objective": {"loss": "distill"}}


def _halve(path: Path, result: Path) -> None:
    """Write a model with float16 weights and arithmetic, whose inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), result)
