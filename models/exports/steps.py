"""A step in a process of its own, within limits, forked from one that has imported what all steps need.

Importing torch, timm and what exports go through takes longer than most steps: it happens once.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil

# What can't be imported is left to the step that needs it.
PRELOADED = (
    *("torch", "torchvision", "timm", "transformers", "onnxscript", "onnxruntime"),
    *("torch.export", "torch._dynamo", "torch.onnx._internal.exporter._core"),
    *("onnxadmm.modules", "onnxadmm.pipeline"),
)
_LOOK_S = 0.2


@dataclass(frozen=True)
class Limits:
    """What a step may take: a loaded machine makes nothing fail.

    Attributes:
        seconds: Of CPU time, its children's included.
        gib: Of memory, in GiB.
    """

    seconds: float
    gib: float


@dataclass(frozen=True)
class Failure:
    """Why a step has no result, in a line.

    Attributes:
        why: The line.
        stopped: Whether it was our own limits.
    """

    why: str
    stopped: bool = False


def run(step: Callable[..., Any], *arguments: Any, limits: Limits) -> Any:
    """Return what a step returns, or its `Failure`.

    Args:
        step: A function of a module; what it takes and returns can be pickled.
        arguments: What it is called with.
        limits: Beyond which it is ended.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, step, arguments))
    process.start()
    theirs.close()
    try:
        while not ours.poll(_LOOK_S):
            seconds, held = _used(process.pid or 0)
            if seconds > limits.seconds:
                return Failure(f"took more than {limits.seconds:.0f} CPU seconds", stopped=True)
            if held > limits.gib * 2**30:
                return Failure(f"took more than {limits.gib:g} GiB", stopped=True)
        return ours.recv()
    except EOFError:
        process.join()
        return Failure(f"ended with status {process.exitcode}")
    finally:
        _end(process)
        ours.close()


def _answer(connection: Connection, step: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        result = step(*arguments)
    except Exception as e:  # noqa: BLE001  (whatever an exporter raises is its refusal)
        lines = [line for line in str(e).splitlines() if line.strip()]
        why = f"{type(e).__name__}: {lines[-1].strip() if lines else ''}"[:300]
        result = Failure(why)
    connection.send(result)


def _used(pid: int) -> tuple[float, int]:
    """Return the CPU seconds of a process and its children, and the bytes that they hold."""
    try:
        process = psutil.Process(pid)
        family = (process, *process.children(recursive=True))
        # The first four of a process's times: its own, then those of children that ended.
        seconds = sum(sum(p.cpu_times()[:4]) for p in family)
        return seconds, sum(p.memory_info().rss for p in family)
    except psutil.Error:
        return 0.0, 0


def _end(process: Any) -> None:
    """Wait for a process that has answered, and end one that won't, with its children."""
    process.join(5)
    if process.is_alive():
        try:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        except psutil.Error:
            pass
        process.kill()
        process.join()
