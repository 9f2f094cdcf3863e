"""Export an architecture to ONNX: by either exporter of torch, at several opsets."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from architectures import Architecture, architecture


def export_named(name: str, exporter: str, paths: Mapping[int, str], small: bool) -> dict[int, Any]:
    """Export an architecture, for `steps.run`.

    Args:
        name: Of the architecture.
        exporter: "legacy" (TorchScript tracing) or "dynamo".
        paths: Opset -> file to write.
        small: Whether images are small where the network allows it.

    Returns:
        Opset -> `steps.Failure`, of those that weren't written.
    """
    from steps import Failure

    # Both exporters warn of traced constants and of their own deprecations, by the hundred.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    # torch's fused attention of evaluation has no counterpart in ONNX.
    torch.backends.mha.set_fastpath_enabled(value=False)
    recipe = architecture(name, small=small)
    network = recipe.build()
    refused = {}
    what: Any = network
    with torch.no_grad():
        # From the newest down: what dynamo's exporter captured for it serves the lower ones.
        for opset, path in sorted(paths.items(), reverse=True):
            part = Path(path).with_suffix(".part")
            try:
                found = _write(recipe, what, exporter, opset, part)
                what = what if found is None else found.exported_program
                written = _opset_of(part)
                if written == opset:
                    # The file appears only when it is whole.
                    os.replace(part, path)  # noqa: PTH105
                else:
                    refused[opset] = Failure(f"the exporter left it at opset {written}")
            except Exception as e:  # noqa: BLE001  (exporters raise what they like)
                lines = [line for line in str(e).splitlines() if line.strip()]
                why = f"{type(e).__name__}: {lines[0].strip() if lines else ''}"
                refused[opset] = Failure(why[:300])
            finally:
                part.unlink(missing_ok=True)
    return refused


def _write(recipe: Architecture, what: Any, exporter: str, opset: int, path: Path) -> Any:
    """Export a network, or what dynamo captured of it, and return what dynamo's exporter returns."""
    tensors = tuple(recipe.inputs.values())
    args = ([tensors[0]],) if recipe.listed else tensors
    names = list(recipe.inputs)
    if exporter == "legacy":
        torch.onnx.export(
            what,
            args,
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=names,
            dynamic_axes={**recipe.dynamic},
        )
        return None
    axes = dict.fromkeys(("batch", "sequence"), torch.export.Dim.DYNAMIC)
    shapes = tuple({a: axes[n] for a, n in recipe.dynamic.get(i, {}).items()} for i in names)
    return torch.onnx.export(
        what,
        args,
        str(path),
        dynamo=True,
        opset_version=opset,
        input_names=names,
        dynamic_shapes=([None],) if recipe.listed else shapes,
        external_data=False,
        verbose=False,
    )


def _opset_of(path: Path) -> int:
    imports = onnx.load(path, load_external_data=False).opset_import
    return next(int(i.version) for i in imports if i.domain in ("", "ai.onnx"))
