"""How much memory the machine has, and this process may take."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

GIB = 1 << 30


def physical_bytes() -> int:
    """Return how much memory this machine has, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int:
    """Return how much memory this machine can still give, in bytes."""
    free = [physical_bytes()]
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    # A container's limit (cgroup v2) counts before the machine's.
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        free.append(limit - int((group / "memory.current").read_text(encoding="ascii")))
    return max(0, min(free))


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
