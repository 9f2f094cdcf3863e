"""The output folder: one run at a time, and each file all or nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from onnxadmm.errors import ResourceError, SpecError, one_line
from onnxadmm.graph import TEMPORARY, Content, write_atomic

LOCK = ".lock"


def check_output(folder: Path, model: Path | None) -> None:
    """Refuse an output that can't be a folder of ours, before any work is done.

    Raises:
        SpecError: It is a file, or the input model would be overwritten.
    """
    if folder.exists() and not folder.is_dir():
        raise SpecError(
            f"output {one_line(folder, 120)}: is a file, not a directory; choose another"
        )
    if model is not None and (folder / "model.onnx").exists():
        with contextlib.suppress(OSError):
            if (folder / "model.onnx").samefile(model):
                raise SpecError(
                    f"output {one_line(folder, 120)}: its model.onnx is the input model, which would be "
                    "overwritten; choose another folder"
                )
    parent = folder.absolute().parent
    if not folder.exists() and not parent.is_dir():
        raise ResourceError(
            f"output {one_line(folder, 120)}: the directory {one_line(parent, 80)} does not exist; make it first"
        )
    there = folder if folder.exists() else parent
    if not os.access(there, os.W_OK | os.X_OK):
        raise ResourceError(
            f"output {one_line(folder, 120)}: no permission to write in {one_line(there, 80)}; choose another"
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for one run; a folder that stays empty is removed at the end.

    Raises:
        ResourceError: Another run holds it (names its process), or it can't be made.
    """
    made = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise ResourceError(
            f"output {one_line(folder, 120)}: {e.strerror}; choose another folder"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise ResourceError(
                f"output {one_line(folder, 120)}: another run is using it (process {one_line(holder, 20)}); "
                "wait for it, or choose another folder"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        _sweep(folder)
        try:
            yield
        finally:
            # Unlink while the lock is held: whoever waits opens a new file.
            (folder / LOCK).unlink(missing_ok=True)
    finally:
        os.close(descriptor)
        if made:
            # Empty ones only: rmdir refuses a folder that holds anything.
            for empty in reversed(_folders(folder)):
                with contextlib.suppress(OSError):
                    empty.rmdir()


def _sweep(folder: Path) -> None:
    """Remove the temporary files that a killed run left: with the lock held they are nobody's."""
    for ours in _folders(folder):
        for path in ours.glob(f"{TEMPORARY}*"):
            with contextlib.suppress(OSError):
                path.unlink()


def _folders(folder: Path) -> list[Path]:
    """Return the folders that a run writes to: its own, that of the checkpoints, and one of these for each stage."""
    checkpoints = folder / "checkpoints"
    stages = [p for p in sorted(checkpoints.glob("*")) if p.is_dir() and not p.is_symlink()]
    return [folder, checkpoints, *stages]


def write_all(folder: Path, files: Mapping[str, Content]) -> None:
    """Write files in order, each atomically; put first what others refer to, last what counts."""
    for name, content in files.items():
        try:
            (folder / name).parent.mkdir(exist_ok=True)
        except OSError as e:
            raise ResourceError(f"output {one_line(folder / name, 120)}: {e.strerror}") from None
        write_atomic(folder / name, content)
    _drop_superseded(folder, files)


def _drop_superseded(folder: Path, files: Mapping[str, Content]) -> None:
    """Remove the weights of earlier results, which lay beside a model that has been replaced."""
    for name in files:
        if not name.endswith(".onnx"):
            continue
        stem = re.escape(name.removesuffix(".onnx"))
        for path in folder.iterdir():
            if re.fullmatch(stem + r"\.[0-9a-f]{12}\.data", path.name) and path.name not in files:
                with contextlib.suppress(OSError):
                    path.unlink()
