"""Running native code over a stranger's graph where a crash, a hang or 64 GiB do no harm."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from onnxadmm.errors import ModelError, ResourceError
from onnxadmm.graph.mapping import unnamed_file
from onnxadmm.memory import GIB

_CHILD = Path(__file__).with_name("child.py")
# A child may compute for so long; on a loaded machine the same work takes a multiple of that.
_PATIENCE = 8
# How the kernel ends a process whose CPU time is spent, where there is such a signal.
_OUT_OF_TIME = -int(getattr(signal, "SIGXCPU", 0))
_DOING = {"check": "checking it", "probe": "running it once"}


def run_limited(task: str, payload: bytes, *, timeout_s: float, memory_bytes: int) -> bytes:
    """Run a named task of `child.py` in a process of its own and return its answer.

    Args:
        task: `check` or `probe`.
        payload: What the task reads.
        timeout_s: CPU time that the child may take, in seconds. It is killed after eight times as much wall
            time, whatever it did.
        memory_bytes: Data memory beyond what the libraries hold. An allocation above it fails.

    Raises:
        ModelError: The child crashed, hung or ran out of memory, so the model must not be trusted.
        ResourceError: The machine can't start a process.
    """
    command = [sys.executable, "-I", str(_CHILD), task]
    command += [str(memory_bytes), str(int(timeout_s) + 1), str(os.getpid())]
    try:
        with _as_file(payload) as source:
            child = subprocess.Popen(  # noqa: S603  (our own interpreter and file)
                command,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )
    except OSError as e:
        raise ResourceError(
            f"a child process for {_DOING[task]} can't start: {e.strerror}; free memory or processes"
        ) from None
    try:
        answer, _ = child.communicate(timeout=timeout_s * _PATIENCE)
    except subprocess.TimeoutExpired:
        raise _too_long(task, timeout_s * _PATIENCE) from None
    finally:
        # Also when this process is interrupted: nothing may outlive the call.
        child.kill()
        with contextlib.suppress(OSError):
            child.wait()
        if child.stdout is not None:
            with contextlib.suppress(OSError):
                child.stdout.close()
    if child.returncode and child.returncode == _OUT_OF_TIME:
        raise _too_long(task, timeout_s)
    if child.returncode != 0 or not answer:
        raise ModelError(
            f"the model is damaged or too large: {_DOING[task]} ended a process limited to "
            f"{memory_bytes / GIB:.1f} GiB of memory ({_ending(child.returncode)}); export it again"
        )
    return answer


def _too_long(task: str, seconds: float) -> ModelError:
    return ModelError(
        f"the model takes too long: {_DOING[task]} was stopped after {seconds:.0f} s; "
        "use a smaller model or fixed, smaller input sizes"
    )


def _as_file(payload: bytes) -> IO[bytes]:
    """Return an unnamed file that holds the payload: a pipe takes seconds for half a gigabyte."""
    file = unnamed_file()
    file.write(payload)
    file.seek(0)
    return file


def _environment() -> dict[str, str]:
    """Return an environment for the child: ours, quiet and with one thread for each library."""
    quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**os.environ, **quiet}


def _ending(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"
