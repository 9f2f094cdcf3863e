"""Writing models and reports: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxadmm.errors import ResourceError, one_line
from onnxadmm.graph.parts import model_contents
from onnxadmm.graph.pieces import Content, serialise

TEMPORARY = ".onnxadmm-"
"""What the name of a file begins with that isn't whole yet."""


def model_bytes(model: ir.Model) -> bytes:
    """Return the model as one ONNX file; equal models give equal bytes.

    Raises:
        ResourceError: The model is larger than the 2 GiB that one ONNX file holds.
    """
    return serialise(ir.to_proto(model))


def save_model(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write the model, whole or not at all; weights that one file can't hold go beside it.

    Raises:
        ResourceError: The disk refuses.
    """
    target = Path(path)
    for name, content in model_contents(model, target.name).items():
        write_atomic(target.with_name(name), content)


def write_atomic(path: str | os.PathLike[str], data: Content | Iterable[Any]) -> None:
    """Write a file so that at every moment it is absent, the old one or the new one.

    A temporary file beside it is written, flushed to the disk and renamed.

    Args:
        path: Where to; its folder must exist.
        data: The content; text is written as UTF-8, what isn't bytes piece by piece.

    Raises:
        ResourceError: The disk refuses; nothing is left behind.
    """
    target = Path(path)
    content = data.encode() if isinstance(data, str) else data
    pieces: Iterable[Any] = (content,) if isinstance(content, bytes) else content
    temporary: Path | None = None
    try:
        beside = target.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        # With 0o666 the user's umask decides on the rights, as for any new file.
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        temporary = beside
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)  # noqa: PTH105  (as the rest here)
        temporary = None
        _sync_folder(target.parent)
    except (OSError, ValueError) as e:
        reason = (e.strerror if isinstance(e, OSError) else None) or str(e)
        raise ResourceError(
            f"writing {one_line(target.name, 80)}: {reason}; free space or choose another folder"
        ) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; some network disks can't, which is no failure."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
