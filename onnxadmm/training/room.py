"""Memory and disk space where training happens: how much there is, and no more is taken."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from onnxadmm.errors import ResourceError
from onnxadmm.memory import GIB, available_bytes, limited_memory

# How torch and numpy word it.
_ASKED = re.compile(r"allocate (\d+) bytes|allocate ([\d.]+ [KMGTPE]iB)", re.IGNORECASE)


def free_memory() -> tuple[int, str]:
    """Return how many bytes are free where training happens, and what to call that."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0]), "GPU memory"
    return available_bytes(), "memory"


def free_disk(folder: Path | None) -> int:
    """Return how many bytes an output folder's disk can take, its checkpoints so far included.

    Without a folder it is the disk of temporary files.
    """
    if folder is None:
        return shutil.disk_usage(tempfile.gettempdir()).free
    old = sum(p.stat().st_size for p in (folder / "checkpoints").rglob("*") if p.is_file())
    return shutil.disk_usage(folder).free + old


@contextlib.contextmanager
def within_memory() -> Iterator[None]:
    """Let what asks for more memory than there is fail by itself, and say how much it asked for.

    What a graph computes can depend on its data, and so can its size: the estimate before training saw one run.

    Raises:
        ResourceError: Something did.
    """
    on_gpu = torch.cuda.is_available()
    try:
        # CUDA reserves addresses far beyond what it takes.
        with contextlib.nullcontext() if on_gpu else limited_memory():
            yield
    except (MemoryError, RuntimeError) as e:
        short = isinstance(e, MemoryError | torch.OutOfMemoryError)
        if not short and "can't allocate memory" not in str(e):
            raise
        asked = _ASKED.search(str(e))
        size = "more than that" if asked is None else asked[2] or f"{int(asked[1]) / GIB:.1f} GiB"
        free, where = free_memory()
        raise ResourceError(
            f"training asked for {size} of {where} at once, {free / GIB:.1f} GiB is free; lower data.batch_size, or use "
            "a machine with more"
        ) from None
