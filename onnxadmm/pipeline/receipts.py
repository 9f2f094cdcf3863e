"""What a stored run belongs to, and whether this very run has finished before."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxadmm import bench
from onnxadmm._version import __version__
from onnxadmm.data import fingerprint
from onnxadmm.errors import InputError
from onnxadmm.graph import Content, Pieces, load_model, open_plain
from onnxadmm.pipeline.request import Request, Samples
from onnxadmm.report import Report

FINISHED = "checkpoints/finished"
"""Written last: what the folder's result belongs to, and its hash."""
_MOST_BYTES = 1 << 20


def identity(request: Request, samples: Samples | None) -> dict[str, str]:
    """Return what a run's result depends on, as text by field."""
    document = request.spec.model_dump(mode="json")
    trained = {n: document[n] for n in ("data", "objective", "prune", "schedule", "seed")}
    evaluated = samples.evaluate if samples else None
    return {
        "model": request.digest,
        "spec": _digest(json.dumps(trained, sort_keys=True).encode()),
        "whole spec": _digest(json.dumps(document, sort_keys=True).encode()),
        "code": _digest(json.dumps([f.sha256 for f in request.functions.values()]).encode())
        if request.functions
        else "none",
        "data": fingerprint(samples.train) if samples else "none",
        "evaluation data": fingerprint(evaluated) if evaluated else "none",
        "onnxadmm version": __version__,
        "torch version": version("torch"),
        "onnxruntime version": str(bench.environment()["onnxruntime"]),
        "python version": platform.python_version(),
    }


def training_identity(whole: Mapping[str, str], threads: int) -> dict[str, str]:
    """Return what a checkpoint depends on: what comes after training may change until it is resumed."""
    return {**{n: v for n, v in whole.items() if n != "whole spec"}, "threads": str(threads)}


def receipt(whole: Mapping[str, str], model: Mapping[str, Content]) -> str:
    """Return the text of `FINISHED` for a result."""
    digests = {name: _digest(content) for name, content in model.items()}
    return json.dumps({**whole, "result": digests}, indent=1) + "\n"


def finished(folder: Path, whole: Mapping[str, str]) -> tuple[ir.Model, ir.Model, Report] | None:
    """Return the result, the pruned graph and the report of this very run, if it finished before."""
    if finished_run(folder) != whole:
        return None
    try:
        with open_plain(folder / "report.json") as file:
            report = Report.from_json(file.read())
    except (OSError, ValueError, InputError):
        return None
    compressed = load_model(folder / "model.onnx")
    floats = folder / "model.float.onnx"
    has_floats = report.pruned is not None and floats.exists()
    return compressed, load_model(floats) if has_floats else compressed, report


def finished_run(folder: Path) -> dict[str, str] | None:
    """Return what the result in a folder belongs to, if it is whole."""
    try:
        with open_plain(folder / FINISHED) as file:
            stored: dict[str, Any] = json.loads(file.read(_MOST_BYTES))
        result = {_plain(name): digest for name, digest in stored.pop("result").items()}
        present = {name: _digest_of_file(folder / name) for name in result}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return stored if result == present and "model.onnx" in result else None


def _digest(content: Content) -> str:
    digest = hashlib.sha256()
    if isinstance(content, Pieces):
        content.update(digest)
    else:
        digest.update(content.encode() if isinstance(content, str) else content)
    return digest.hexdigest()


def _digest_of_file(path: Path) -> str:
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(name: str) -> str:
    """Return a file's name, which must be one within the folder."""
    if Path(name).name != name:
        raise ValueError(name)
    return name
