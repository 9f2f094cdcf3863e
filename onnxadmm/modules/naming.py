"""Names of tensors as paths in a torch module: the original name wherever torch can carry it."""

from __future__ import annotations

import re

from torch import nn

_PART = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def attribute_path(root: nn.Module, name: str) -> str:
    """Return where a tensor of this name can live under `root`.

    `conv1.weight` stays as it is. A part that is no identifier (`/a/b`, `onnx::Conv_3`), that the module
    already uses or that torch's own attributes occupy is rewritten, and numbered where that collides.
    """
    parts = [p if _PART.fullmatch(p) else re.sub(r"\W", "_", f"t_{p}") for p in name.split(".")]
    # A name is a stranger's: no module is nested more deeply than people nest them.
    if len(parts) > 16 or len(name) > 512:  # noqa: PLR2004
        parts = ["tensor"]
    candidate, n = ".".join(parts), 2
    while _taken(root, candidate):
        candidate, n = ".".join([*parts[:-1], f"{parts[-1]}_{n}"]), n + 1
        if n == 3 and len(parts) > 1 and _taken(root, candidate):  # noqa: PLR2004
            # A parent is a tensor itself: flatten the path.
            parts = ["_".join(parts)]
    return candidate


def _taken(root: nn.Module, path: str) -> bool:
    owner: object = root
    *parents, leaf = path.split(".")
    for parent in parents:
        if not hasattr(owner, parent):
            return hasattr(nn.Module(), parent)
        owner = getattr(owner, parent)
        if not isinstance(owner, nn.Module):
            return True
    return hasattr(owner, leaf)
