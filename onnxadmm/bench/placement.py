"""Which cores a comparison runs on.

Left to the scheduler, one of two processes that take turns can wake up next to a busy neighbour, launch
after launch, while the other has a core to itself: on a two-core machine with other work, a model was
measured up to twice as slow as itself. So all models of a launch share the same cores, the idlest at that
moment, and with them the same luck.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_LOOK_S = 0.1
_TOPOLOGY = Path("/sys/devices/system/cpu")


def choose_cores(threads: int, rng: np.random.Generator) -> list[int]:
    """Return `threads` idle cores of equal, highest speed; empty when there is nothing to choose.

    Looks at the machine for 0.1 s. Two threads of one physical core count as one as long as there are
    others.
    """
    if sys.platform != "linux":
        return []
    allowed = sorted(os.sched_getaffinity(0))
    before = _busy_ticks()
    time.sleep(_LOOK_S)
    after = _busy_ticks()
    speed = {cpu: _number(cpu, "cpufreq/cpuinfo_max_freq") for cpu in allowed}
    # Efficiency cores would time another machine.
    fast = [cpu for cpu in allowed if speed[cpu] == max(speed.values())]
    busy = {cpu: after.get(cpu, 0) - before.get(cpu, 0) for cpu in fast}
    siblings = {cpu: _text(cpu, "topology/thread_siblings_list") or str(cpu) for cpu in fast}
    return pick(threads, busy, siblings, rng)


def pick(
    threads: int, busy: Mapping[int, int], siblings: Mapping[int, str], rng: np.random.Generator
) -> list[int]:
    """Return the `threads` least busy CPUs, on physical cores of their own if there are enough.

    Args:
        threads: How many.
        busy: CPU -> how busy it was. Among equals, chance decides.
        siblings: CPU -> a name for its physical core.
        rng: The chance.
    """
    if threads >= len(busy):
        return []
    shuffled = [int(cpu) for cpu in rng.permutation(sorted(busy))]
    # A core is as busy as its busiest thread.
    load: dict[str, int] = {}
    for cpu in busy:
        load[siblings[cpu]] = max(load.get(siblings[cpu], 0), busy[cpu])
    taken: dict[str, int] = {}
    order: list[tuple[int, int, int]] = []
    for cpu in sorted(shuffled, key=lambda c: busy[c]):
        core = siblings[cpu]
        order.append((taken.get(core, 0), load[core], cpu))
        taken[core] = taken.get(core, 0) + 1
    order.sort(key=lambda entry: entry[:2])
    return sorted(cpu for _, _, cpu in order[:threads])


def stay_on(cores: list[int]) -> None:
    """Keep this thread, and those it starts, on these cores; empty means wherever they like."""
    if cores and sys.platform == "linux":
        os.sched_setaffinity(0, cores)


def _busy_ticks() -> dict[int, int]:
    """Return CPU -> the time that it has not been idle, in kernel ticks."""
    found: dict[int, int] = {}
    try:
        lines = Path("/proc/stat").read_text("ascii").splitlines()
    except OSError:
        return found
    for line in lines:
        name, _, rest = line.partition(" ")
        if name.startswith("cpu") and name[3:].isdigit():
            ticks = [int(x) for x in rest.split()]
            # user nice system idle iowait irq softirq steal; guest time is in user already
            found[int(name[3:])] = sum(ticks[:3]) + sum(ticks[5:8])
    return found


def _text(cpu: int, name: str) -> str:
    try:
        return (_TOPOLOGY / f"cpu{cpu}" / name).read_text("ascii").strip()
    except OSError:
        return ""


def _number(cpu: int, name: str) -> int:
    text = _text(cpu, name)
    return int(text) if text.isdigit() else 0
