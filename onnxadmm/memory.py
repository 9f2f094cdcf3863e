"""How much memory the machine has, and this process may take."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

GIB = 1 << 30


# Limit and use of the container: control groups of version 2, then 1.
_CONTROL_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def physical_bytes() -> int:
    """Return how much memory this machine has, in bytes."""
    return int(psutil.virtual_memory().total)


def available_bytes() -> int:
    """Return the memory that this process can still take, in bytes, the container's limit included."""
    available = int(psutil.virtual_memory().available)
    for limit, used in _CONTROL_GROUPS:
        try:
            left = int(limit.read_text()) - int(used.read_text())
        except (OSError, ValueError):  # no such control group, or no limit (the word `max`)
            continue
        available = min(available, max(left, 0))
    return available


def held_bytes() -> int:
    """Return the data pages of this process, in bytes, as RLIMIT_DATA counts them; 0 where unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/statm").read_bytes().split()
        return int(fields[5]) * resource.getpagesize()
    return 0


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let an allocation fail that the machine has no memory for, instead of the whole process.

    It holds for all threads of the process, for as long as it lasts.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    room = held_bytes() + max(available_bytes(), GIB)
    room = min([room, *(limit for limit in before if limit != resource.RLIM_INFINITY)])
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (room, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, before)
