"""Trained weights back into the graph that they came from, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from onnxadmm import ops
from onnxadmm.graph import constant_of
from onnxadmm.graph.constants import set_constant
from onnxadmm.ops.masters import levels_of

Array = np.ndarray[Any, Any]


def write_back(
    model: ir.Model, weights: Mapping[str, Array | torch.Tensor], *, move: bool = False
) -> None:
    """Replace the content of the graph's weights, in place; names, order and types stay.

    A weight whose bits nothing changed isn't touched: it keeps the form in which its file stores it.

    Args:
        model: The graph that was imported.
        weights: Name -> content in the original's shape and dtype; of a weight that is stored in integers, its
            float master. Tensors are read one by one, so that a whole module (`Imported.state`) comes back
            without a second copy of its weights; what is written never shares memory with them.
        move: Empty each tensor once it is written, and let the graph have its memory: of a large model there is never
            a second copy of what was trained. The module that it belongs to is of no use afterwards.

    Raises:
        ValueError: A name that the graph doesn't hold, or another shape.
    """
    held = ops.held(model)
    found = {n: r for n, r in ops.roles(model).items() if r.dequantize is not None}
    for name, given in weights.items():
        shared = isinstance(given, torch.Tensor)
        content: Array = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else given
        value = held.get(name)
        before = constant_of(value)
        if value is None or before is None:
            raise ValueError(f"the graph holds no tensor {name!r}")
        if before.shape != content.shape:
            raise ValueError(f"{name!r} is {before.shape}, got {content.shape}")
        if content.dtype.kind == "f" and before.dtype.kind != "f" and name in found:
            new = levels_of(found[name], content)
        else:
            new = content.astype(before.dtype, copy=False)
        if not _same_bits(before, new):
            set_constant(value, new.copy() if shared and not move else new)
        if move and isinstance(given, torch.Tensor):
            given.data = torch.empty(0, dtype=given.dtype, device=given.device)


def _same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Whether two arrays of one type and shape are equal bit by bit: -0.0 is not 0.0, a NaN is itself."""
    if a.dtype != b.dtype:
        return False
    bits = f"u{a.dtype.itemsize}"
    return bool(
        np.array_equal(np.ascontiguousarray(a).view(bits), np.ascontiguousarray(b).view(bits))
    )
