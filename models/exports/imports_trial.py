"""All that an import promises, tried on one file: outputs, open batch, gradients, a step, the way back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from onnxadmm import ops
from onnxadmm.errors import OnnxadmmError, VerificationError
from onnxadmm.graph import (
    OTHER_FLOATS,
    Probe,
    inline_functions,
    load_model,
    model_bytes,
    probe,
    widen,
)
from onnxadmm.modules import (
    Comparison,
    Imported,
    import_model,
    write_back,
)
from onnxadmm.ops.element_types import to_torch
from onnxadmm.pipeline.inputs import Inputs

Feed = dict[str, np.ndarray[Any, Any]]
BATCHES = (1, 3)
TOLERANCE_STEP = 1e-5
STEP = 1e-3
"""Length of the step, relative to all weights together."""


def try_import(path: Path) -> dict[str, Any]:
    """Return what holds of a file's import; a refusal is a part of it."""
    started = time.monotonic()
    try:
        result = _tried(load_model(path))
    except VerificationError as e:
        result = {"import_error": 1.0, "wrong": str(e)}
    except OnnxadmmError as e:
        result = {"import_refused": str(e)}
    return {**result, "import_s": round(time.monotonic() - started, 1)}


def _tried(model: ir.Model) -> dict[str, Any]:
    inline_functions(model)
    kinds = {ops.element_type(v) for v in ops.weights(model).values()}
    if kinds & OTHER_FLOATS:
        model = widen(model)
    seen = probe(model)
    imported = import_model(model, seen)
    imported.module.eval()
    result: dict[str, Any] = {
        "weights": len(imported.binding),
        "frozen": sorted({n.split(" ")[0] for n in imported.frozen}),
    }
    compared, feed = _compared(model, seen, imported)
    result |= compared
    before = model_bytes(model)
    write_back(model, imported.weights())
    result["back_unchanged"] = model_bytes(model) == before
    result |= _stepped(model, imported, feed)
    return result


def _compared(model: ir.Model, seen: Probe, imported: Imported) -> tuple[dict[str, Any], Feed]:
    """Return the errors against ONNX Runtime and the batches at which it ran, and inputs with finite outputs."""
    comparison = Comparison(model, imported)
    best: tuple[float, Feed] = (-1.0, {})
    worst = apart = 0.0
    batches: list[int] = []
    for batch in BATCHES:
        for feed in _feeds(model, seen, imported, batch):
            try:
                parity = comparison.on(feed)
            except RuntimeError:
                # Batch 1 ran already: an open batch that the graph itself doesn't honour.
                if batch == BATCHES[0]:
                    raise
                continue
            worst, apart = max(worst, parity.error), max(apart, parity.outputs)
            share = _finite(imported, feed)
            if share > best[0]:
                best = share, feed
            first = feed[imported.inputs[0]] if imported.inputs else np.zeros(())
            batches.append(first.shape[0] if first.ndim else 1)
    found = {"import_error": worst, "outputs_error": apart, "batches": sorted(set(batches))}
    return found, best[1]


def _finite(imported: Imported, feed: Feed) -> float:
    """Return the smallest share of an output that is finite."""
    with torch.inference_mode():
        outputs = imported.module(*_arguments(imported, feed))
    floats = [o for o in outputs if isinstance(o, torch.Tensor) and o.is_floating_point()]
    return min((float(o.isfinite().double().mean()) for o in floats if o.numel()), default=1.0)


def _arguments(imported: Imported, feed: Feed) -> list[Any]:
    return [to_torch(feed[n]) if feed[n].dtype != object else feed[n] for n in imported.inputs]


def _stepped(model: ir.Model, imported: Imported, feed: Feed) -> dict[str, Any]:
    """Take one step of gradient descent, write it back and compare again; the graph is changed."""
    found = imported.module(*_arguments(imported, feed))
    outputs = [o for o in found if isinstance(o, torch.Tensor) and o.requires_grad]
    if not outputs:
        return {"gradients": "none"}
    sum(o.float().square().mean() for o in outputs).backward()  # type: ignore[union-attr]
    slopes = {n: p.grad for n, p in imported.binding.items() if p.grad is not None}
    odd = [n for n, g in slopes.items() if not bool(torch.isfinite(g).all())]
    if odd:
        return {"gradients": f"not finite: {', '.join(odd[:3])}"}
    length = sum(float(g.double().square().sum()) for g in slopes.values()) ** 0.5
    size = sum(float(p.detach().double().square().sum()) for p in imported.binding.values()) ** 0.5
    with torch.no_grad():
        for name, slope in slopes.items():
            imported.binding[name] -= STEP * size / max(length, 1e-30) * slope
    write_back(model, imported.weights())
    gradients = f"{len(slopes)} of {len(imported.binding)}"
    try:
        parity = Comparison(model, imported).on(feed, TOLERANCE_STEP)
    except VerificationError as e:
        return {"gradients": gradients, "step_error": 1.0, "wrong": f"after a step: {e}"}
    return {
        "gradients": gradients,
        "step_error": parity.error,
        "step_outputs_error": parity.outputs,
    }


def _feeds(model: ir.Model, seen: Probe, imported: Imported, batch: int) -> Iterator[Feed]:
    """Yield inputs as a proof is fed with: random ones, positive ones, scalars that are wide ranges."""
    shapes = {
        v.name or "": _shape(v, seen.shapes[v.name or ""], batch)
        for v in model.graph.inputs
        if v.name in imported.inputs
    }
    yield from Inputs(model, shapes, None, batch, zeros=seen.zeros).proof()


def _shape(value: ir.Value, ran: tuple[int, ...], batch: int) -> tuple[int, ...]:
    declared = value.shape
    free = declared is not None and len(declared) and not isinstance(declared[0], int)
    return (batch, *ran[1:]) if free else ran
