"""Writing models and reports: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxadmm.errors import ResourceError, one_line

TEMPORARY = ".onnxadmm-"
"""What the name of a file begins with that isn't whole yet."""


def model_bytes(model: ir.Model) -> bytes:
    """Return the model as one ONNX file; equal models give equal bytes.

    Raises:
        ResourceError: The model is larger than the 2 GiB that one ONNX file holds.
    """
    return serialise(ir.to_proto(model))


def serialise(proto: onnx.ModelProto) -> bytes:
    """Return a protobuf's bytes, always the same for the same content.

    Raises:
        ResourceError: It is larger than the 2 GiB that protobuf allows.
    """
    try:
        return bytes(proto.SerializeToString(deterministic=True))
    except Exception:  # noqa: BLE001  (EncodeError, from a package without types; or MemoryError)
        raise ResourceError(
            "the model doesn't fit into one ONNX file of 2 GiB; use a smaller one"
        ) from None


def save_model(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write the model, whole or not at all.

    Raises:
        ResourceError: The disk refuses, or the model is larger than 2 GiB.
    """
    write_atomic(path, model_bytes(model))


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file so that at every moment it is absent, the old one or the new one.

    A temporary file beside it is written, flushed to the disk and renamed.

    Args:
        path: Where to; its folder must exist.
        data: The content; text is written as UTF-8.

    Raises:
        ResourceError: The disk refuses; nothing is left behind.
    """
    target = Path(path)
    content = data.encode() if isinstance(data, str) else data
    temporary: Path | None = None
    try:
        beside = target.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        # With 0o666 the user's umask decides on the rights, as for any new file.
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        temporary = beside
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
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
