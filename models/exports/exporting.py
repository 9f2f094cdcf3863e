"""Export one architecture to ONNX, in a process of its own.

python models/exports/exporting.py NAME EXPORTER OPSET FILE
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import torch
from architectures import Architecture, architecture


def export(recipe: Architecture, exporter: str, opset: int, path: Path) -> None:
    """Write an architecture as one ONNX file; the file appears only when it is whole.

    Args:
        recipe: What to build.
        exporter: "legacy" (TorchScript tracing) or "dynamo".
        opset: Version of the standard's operators.
        path: Where to.
    """
    # torch's fused attention of evaluation has no counterpart in ONNX.
    torch.backends.mha.set_fastpath_enabled(value=False)
    network = recipe.build()
    tensors = tuple(recipe.inputs.values())
    args = ([tensors[0]],) if recipe.listed else tensors
    part = path.with_suffix(".part")
    if exporter == "legacy":
        torch.onnx.export(
            network,
            args,
            str(part),
            dynamo=False,
            opset_version=opset,
            input_names=list(recipe.inputs),
            dynamic_axes={**recipe.dynamic},
        )
    else:
        axes = dict.fromkeys(("batch", "sequence"), torch.export.Dim.DYNAMIC)
        shapes = tuple(
            {a: axes[n] for a, n in recipe.dynamic.get(name, {}).items()} for name in recipe.inputs
        )
        torch.onnx.export(
            network,
            args,
            str(part),
            dynamo=True,
            opset_version=opset,
            input_names=list(recipe.inputs),
            dynamic_shapes=([None],) if recipe.listed else shapes,
            external_data=False,
            verbose=False,
        )
    os.replace(part, path)  # noqa: PTH105


def main() -> None:
    """Export what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("exporter", choices=("legacy", "dynamo"))
    parser.add_argument("opset", type=int)
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    # Both exporters warn of traced constants and of their own deprecations, by the hundred.
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with torch.no_grad():
        export(architecture(args.name), args.exporter, args.opset, args.file)


if __name__ == "__main__":
    main()
