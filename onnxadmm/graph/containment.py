"""Opening a file strictly inside a folder, by a name that a stranger may have chosen."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

# O_NONBLOCK: opening a FIFO must not wait for a writer.
READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class RefusedError(Exception):
    """Why a file isn't opened: "is a symlink, or lies behind one"."""


def open_contained(root: Path, location: str, folder: str) -> tuple[int, os.stat_result]:
    """Return descriptor and status of the regular file at a plain relative location below a folder.

    Every component is opened relative to the one before it and never through a symlink, so that what
    was checked is what is read, also when somebody changes the folder meanwhile. A refused file is
    never opened.

    Args:
        root: The folder's real path.
        location: As it was given.
        folder: What to call it in the reason: "the model's folder".

    Raises:
        RefusedError: The location is unsafe or holds no regular file with one name.
    """
    parts = _resolve(root, location, folder)
    if not parts:
        raise RefusedError("is a directory, not a regular file")
    with contextlib.ExitStack() as folders:
        try:
            above = os.open(root, READ_FLAGS | os.O_DIRECTORY)
            folders.callback(os.close, above)
            for part in parts[:-1]:
                flags = READ_FLAGS | os.O_DIRECTORY | os.O_NOFOLLOW
                above = os.open(part, flags, dir_fd=above)
                folders.callback(os.close, above)
            before = os.stat(parts[-1], dir_fd=above, follow_symlinks=False)
            if not stat.S_ISREG(before.st_mode):
                raise RefusedError(f"is {kind(before.st_mode)}, not a regular file")
            if before.st_nlink > 1:
                raise RefusedError("is a hard link, whose other name may lie outside the folder")
            descriptor = os.open(parts[-1], READ_FLAGS | os.O_NOFOLLOW, dir_fd=above)
        except OSError as e:
            raise RefusedError(f"can't be opened: {reason(e)}") from None
    after = os.fstat(descriptor)
    if (after.st_dev, after.st_ino) != (before.st_dev, before.st_ino):
        os.close(descriptor)
        raise RefusedError("changed while it was opened")
    return descriptor, after


def open_plain(path: Path) -> BufferedReader:
    """Open a regular file for reading by its path; never waits at a FIFO, wakes no device.

    Raises:
        OSError: It can't be opened, or is something else, a symlink too.
    """
    # stat first: opening a device can already have effects.
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    descriptor = os.open(path, READ_FLAGS | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(descriptor, "rb")


def kind(mode: int) -> str:
    """Return what a file is that isn't a regular one, as words."""
    for test, word in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISLNK, "a symlink"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return word
    return "a device"


def reason(error: Exception) -> str:
    """Return an error's text, without the path that an OSError adds."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _resolve(root: Path, location: str, folder: str) -> tuple[str, ...]:
    """Return the path's components below the folder, none of them a symlink, or refuse."""
    if not location:
        raise RefusedError("is empty")
    if not location.isprintable() or "\\" in location or "://" in location:
        raise RefusedError("is no plain relative path (control character, backslash or URL)")
    if location.startswith(("/", "~")) or location[1:2] == ":" or "_ORT_MEM_ADDR_" in location:
        raise RefusedError(f"is not relative to {folder} and may lead outside")
    parts = [p for p in location.split("/") if p not in {"", "."}]
    if ".." in parts:
        raise RefusedError(f"holds '..' and may lead outside {folder}")
    try:
        # Reads links, opens nothing.
        real = Path(os.path.realpath(root.joinpath(*parts)))
    except (OSError, ValueError) as e:
        raise RefusedError(f"can't be resolved: {reason(e)}") from None
    if not real.is_relative_to(root):
        raise RefusedError(f"leads outside {folder} through a symlink")
    if real.relative_to(root).parts != tuple(parts):
        raise RefusedError("is a symlink, or lies behind one")
    return tuple(parts)
