"""Opening files that a stranger may have prepared: a model, and the side files that it names."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from onnxadmm.errors import ModelError, ResourceError, one_line
from onnxadmm.graph.containment import READ_FLAGS, RefusedError, kind, open_contained, reason

# Protobuf itself ends at 2 GiB; weights beyond that are external data.
MAX_MODEL_BYTES = (1 << 31) - 1


@dataclass(frozen=True)
class FileBytes:
    """The content of a file and which file it was.

    Attributes:
        content: All bytes.
        identity: Device and inode.
    """

    content: bytes
    identity: tuple[int, int]


def read_model_file(path: str | os.PathLike[str]) -> FileBytes:
    """Read a whole model file. A symlink to a regular file is followed: the user named it.

    Raises:
        ModelError: There is no such regular file, or it is empty or too large.
        ResourceError: The disk fails while reading.
    """
    name = shown(path)
    try:
        # stat first: opening a device can already have effects.
        _require_regular(os.stat(path), name)  # noqa: PTH116  (bytes paths too)
        descriptor = os.open(path, READ_FLAGS)
    except (OSError, ValueError) as e:
        raise ModelError(f"model {name}: {reason(e)}; give the path of an .onnx file") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _require_regular(status, name)
        if status.st_size > MAX_MODEL_BYTES:
            raise ModelError(
                f"model {name}: {status.st_size} bytes, above the 2 GiB that ONNX allows; "
                "keep the weights as external data"
            )
        try:
            # Python sets aside as much as it is asked for.
            content = file.read(status.st_size + 1)
        except OSError as e:
            raise ResourceError(f"model {name}: reading failed: {reason(e)}") from None
    if not content:
        raise ModelError(f"model {name}: the file is empty; export or download it again")
    return FileBytes(content, (status.st_dev, status.st_ino))


class ModelFolder:
    """The folder of a model, the only place from which side files are read.

    Every component is opened relative to the one before it and never through a symlink, so that what
    was checked is what is read, also when somebody changes the folder meanwhile. A refused file is
    never opened. Use it as a context manager: it holds descriptors of the files that it opened.
    """

    def __init__(self, path: str | os.PathLike[str], model: tuple[int, int]) -> None:
        self._root = Path(os.path.realpath(Path(os.fspath(path)).parent))
        self._model = model
        self._open: dict[str, tuple[int, int]] = {}
        self._sums: dict[int, str] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def open(self, location: str, tensor: str) -> tuple[int, int]:
        """Return descriptor and size (in bytes) of the side file at a model's `location`.

        Args:
            location: As the model gives it.
            tensor: Printable name of the tensor, for the message.

        Raises:
            ModelError: The location is unsafe or holds no regular file.
        """
        if location not in self._open:
            try:
                self._open[location] = self._open_side_file(location)
            except RefusedError as e:
                raise ModelError(
                    f"tensor {tensor}: external data location {one_line(repr(location), 60)} {e}; "
                    "keep the weights as plain files in the model's folder"
                ) from None
        return self._open[location]

    def sha1(self, descriptor: int, size: int) -> str:
        """Return the SHA-1 of an opened side file, computed once however many tensors give one."""
        if descriptor not in self._sums:
            digest = hashlib.sha1(usedforsecurity=False)
            for offset in range(0, size, 1 << 24):
                digest.update(read_range(descriptor, offset, min(1 << 24, size - offset)))
            self._sums[descriptor] = digest.hexdigest()
        return self._sums[descriptor]

    def _open_side_file(self, location: str) -> tuple[int, int]:
        descriptor, status = open_contained(self._root, location, "the model's folder")
        self._stack.callback(os.close, descriptor)
        if (status.st_dev, status.st_ino) == self._model:
            raise RefusedError("is the model file itself")
        return descriptor, status.st_size


def read_range(descriptor: int, offset: int, length: int) -> bytes:
    """Read `length` bytes from `offset`; fewer when the file ends before."""
    parts: list[bytes] = []
    while length > 0:
        # One read call returns at most 2 GiB on Linux.
        part = os.pread(descriptor, min(length, 1 << 30), offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_into(descriptor: int, offset: int, target: memoryview) -> int:
    """Fill a buffer from `offset`; return how many bytes there were."""
    done = 0
    while done < len(target):
        # One read call returns at most 2 GiB on Linux.
        count = os.preadv(descriptor, [target[done : done + (1 << 30)]], offset + done)
        if not count:
            break
        done += count
    return done


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path's last part as one short printable line."""
    return one_line(os.path.basename(os.fspath(path)) or os.fspath(path), 80)  # noqa: PTH119


def _require_regular(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(
            f"model {name}: {kind(status.st_mode)}, not a regular file; "
            "give the path of an .onnx file"
        )
