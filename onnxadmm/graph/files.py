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

# Protobuf itself ends at 2 GiB; weights beyond that are external data.
MAX_MODEL_BYTES = (1 << 31) - 1
# O_NONBLOCK: opening a FIFO must not wait for a writer.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


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
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError) as e:
        raise ModelError(f"model {name}: {_reason(e)}; give the path of an .onnx file") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _require_regular(status, name)
        if status.st_size > MAX_MODEL_BYTES:
            raise ModelError(
                f"model {name}: {status.st_size} bytes, above the 2 GiB that ONNX allows; "
                "keep the weights as external data"
            )
        try:
            content = file.read(MAX_MODEL_BYTES + 1)
        except OSError as e:
            raise ResourceError(f"model {name}: reading failed: {_reason(e)}") from None
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
                self._open[location] = self._open_inside(self._resolve(location))
            except _RefusedError as e:
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

    def _resolve(self, location: str) -> tuple[str, ...]:
        """Return the path's components below the folder, none of them a symlink, or refuse."""
        if not location:
            raise _RefusedError("is empty")
        if not location.isprintable() or "\\" in location or "://" in location:
            raise _RefusedError("is no plain relative path (control character, backslash or URL)")
        if location.startswith(("/", "~")) or location[1:2] == ":" or "_ORT_MEM_ADDR_" in location:
            raise _RefusedError("is not relative to the model's folder and may lead outside")
        parts = [p for p in location.split("/") if p not in {"", "."}]
        if ".." in parts:
            raise _RefusedError("holds '..' and may lead outside the model's folder")
        try:
            # Reads links, opens nothing.
            real = Path(os.path.realpath(self._root.joinpath(*parts)))
        except (OSError, ValueError) as e:
            raise _RefusedError(f"can't be resolved: {_reason(e)}") from None
        if not real.is_relative_to(self._root):
            raise _RefusedError("leads outside the model's folder through a symlink")
        if real.relative_to(self._root).parts != tuple(parts):
            raise _RefusedError("is a symlink, or lies behind one")
        return tuple(parts)

    def _open_inside(self, parts: tuple[str, ...]) -> tuple[int, int]:
        if not parts:
            raise _RefusedError("is a directory, not a regular file")
        with contextlib.ExitStack() as folders:
            try:
                folder = os.open(self._root, _FLAGS | os.O_DIRECTORY)
                folders.callback(os.close, folder)
                for part in parts[:-1]:
                    flags = _FLAGS | os.O_DIRECTORY | os.O_NOFOLLOW
                    folder = os.open(part, flags, dir_fd=folder)
                    folders.callback(os.close, folder)
                before = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
                self._require_side_file(before)
                descriptor = os.open(parts[-1], _FLAGS | os.O_NOFOLLOW, dir_fd=folder)
            except OSError as e:
                raise _RefusedError(f"can't be opened: {_reason(e)}") from None
        self._stack.callback(os.close, descriptor)
        after = os.fstat(descriptor)
        if (after.st_dev, after.st_ino) != (before.st_dev, before.st_ino):
            raise _RefusedError("changed while it was opened")
        return descriptor, after.st_size

    def _require_side_file(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise _RefusedError(f"is {_kind(status.st_mode)}, not a regular file")
        if (status.st_dev, status.st_ino) == self._model:
            raise _RefusedError("is the model file itself")
        if status.st_nlink > 1:
            raise _RefusedError("is a hard link, whose other name may lie outside the folder")


class _RefusedError(Exception):
    """Why a side file isn't opened."""


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
            f"model {name}: {_kind(status.st_mode)}, not a regular file; "
            "give the path of an .onnx file"
        )


def _kind(mode: int) -> str:
    for test, word in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISLNK, "a symlink"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return word
    return "a device"


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
