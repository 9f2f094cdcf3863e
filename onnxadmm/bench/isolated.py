"""Sessions on a stranger's graph, in a process of their own that is limited in time and memory.

Making a session folds constants, in branches too that no run has taken, and what a run does can depend on
its inputs: either can hang, crash or ask for everything. Here that ends a process that holds nothing else.
One process holds all sessions of its parent: the first costs its start (half a second), each next one nothing.
"""

from __future__ import annotations

import atexit
import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from weakref import finalize

import numpy as np

from onnxadmm.bench.process import WorkerProcess
from onnxadmm.bench.running import PATIENCE, Elsewhere
from onnxadmm.errors import ModelError, one_line

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, Any]

OPEN_S = 30.0
"""Seconds that making a session may take, and as many more as reading the model does at `READING_BYTES_PER_S`."""
READING_BYTES_PER_S = 3e7
START_S = 120.0
NEVER_S = 1e6
GRACE_S = 10.0
"""A run is asked to stop after its time, and its process is ended so many seconds later."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a session: what ONNX Runtime calls a NodeArg."""

    name: str
    shape: list[int | str | None]


class _Keeper:
    """The process that holds this process's sessions; started when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._worker: WorkerProcess | None = None
        self._owner = 0
        self._next = 0
        self._held: set[int] = set()
        self._dropped: list[int] = []

    def open(self, values: Mapping[str, Any], limit_s: float) -> tuple[WorkerProcess, int, Any]:
        """Return the process, the session's number in it, and what it answered."""
        with self._lock:
            if self._worker is not None and self._owner == os.getpid() and self._worker.has_ended:
                # By no request, or it would be forgotten: somebody else ended it, and this model is not to blame.
                self._end(self._worker)
            # After a fork the pipes are the parent's.
            if self._worker is None or self._owner != os.getpid():
                self._worker = WorkerProcess("the sessions", START_S)
                self._owner, self._held, self._dropped = os.getpid(), set(), []
                # What importing takes on a busy machine isn't the model's.
                self.ask(self._worker, {"do": "start"}, {}, START_S)
            worker, self._next = self._worker, self._next + 1
            request = {"do": "load", "key": self._next, **values}
            answer = self.ask(worker, request, {}, PATIENCE * limit_s, limit_s)
            self._held.add(self._next)
            return worker, self._next, answer

    def ask(
        self,
        worker: WorkerProcess,
        values: Mapping[str, Any],
        arrays: Mapping[str, Array],
        limit_s: float,
        computing_s: float = math.inf,
    ) -> Any:
        """Ask a process, and forget it where it doesn't answer.

        Raises:
            TimeoutError: It took too long, and was ended.
            EOFError: It had ended, or ended meanwhile.
        """
        with self._lock:
            if worker is not self._worker:
                raise EOFError
            dropped, self._dropped = self._dropped, []
            try:
                return worker.ask({**values, "drop": dropped}, arrays, limit_s, computing_s)
            except (TimeoutError, EOFError):
                self._end(worker)
                raise
            except BaseException:
                # Interrupted in the middle of a frame: the next answer would be this one.
                if worker.is_torn:
                    self._end(worker)
                raise

    def drop(self, worker: WorkerProcess, key: int) -> None:
        """Let a session go with the next request; this may come at any time, within a request too."""
        if worker is self._worker:
            self._held.discard(key)
            self._dropped.append(key)

    def rest(self) -> None:
        """End the process where nobody holds a session of it any more."""
        with self._lock:
            if not self._held:
                self.close()

    def _end(self, worker: WorkerProcess) -> None:
        worker.__exit__(TimeoutError, None)
        self._worker = None

    def close(self) -> None:
        """End the process, if there is one."""
        if self._worker is not None and self._owner == os.getpid():
            self._end(self._worker)


_keeper = _Keeper()
atexit.register(_keeper.close)


def give_memory_back() -> None:
    """End the process that held sessions, unless somebody still has one: what it holds is missing elsewhere."""
    _keeper.rest()


class IsolatedSession(Elsewhere):
    """A session in another process, with the part of ONNX Runtime's interface that is used here."""

    def __init__(self, worker: WorkerProcess, key: int, answer: Any, name: str) -> None:
        self._worker, self._key, self._name = worker, key, name
        self._inputs = [Port(*p) for p in answer.values["inputs"]]
        self._defaults = [Port(*p) for p in answer.values["defaults"]]
        self._outputs = [Port(*p) for p in answer.values["outputs"]]
        finalize(self, _keeper.drop, worker, key)

    @classmethod
    def open(cls, path: Path, *, name: str, optimize: bool, trace: Path | None) -> Self:
        """Open a file that we wrote, alone in its folder with its weights; see `open_isolated`."""
        size_bytes = sum(p.stat().st_size for p in path.parent.iterdir())
        limit_s = OPEN_S + size_bytes / READING_BYTES_PER_S
        values = {
            "model": str(path.absolute()),
            "name": name,
            "optimize": optimize,
            "trace": str(trace.absolute()) if trace is not None else None,
        }
        try:
            worker, key, answer = _keeper.open(values, limit_s)
        except TimeoutError:
            raise ModelError(
                f"{name} takes too long: making a session was stopped after {limit_s:.0f} s; its constants may "
                "take for ever to fold"
            ) from None
        except EOFError:
            raise ModelError(
                f"{name} ended the process that made its session: it is damaged, or needs more memory than "
                "there is; export it again"
            ) from None
        return cls(worker, key, answer, name)

    @property
    def process_id(self) -> int:
        """The process that holds it."""
        return self._worker.pid

    def get_inputs(self) -> list[Port]:
        """Return the inputs that must be fed."""
        return self._inputs

    def get_overridable_initializers(self) -> list[Port]:
        """Return the inputs that have a default."""
        return self._defaults

    def get_outputs(self) -> list[Port]:
        """Return the outputs."""
        return self._outputs

    def run(
        self, names: Sequence[str], feed: Mapping[str, Any], limit_s: float | None
    ) -> list[Any]:
        """Run it.

        Args:
            names: Of the outputs.
            feed: Input name -> array, or a list of arrays for a sequence.
            limit_s: When it is stopped, in seconds of computing; None for never.

        Raises:
            ModelError: It was stopped, asked for more memory than there is, or crashed ONNX Runtime.
            RuntimeError: ONNX Runtime refuses; with its words.
        """
        request = {"do": "run", "key": self._key, "names": list(names), "limit_s": limit_s}
        computing_s = NEVER_S if limit_s is None else limit_s + GRACE_S
        try:
            answer = _keeper.ask(
                self._worker, request, dict(feed), PATIENCE * computing_s, computing_s
            )
        except TimeoutError:
            raise ModelError(
                f"{self._name} takes too long: a run was stopped after {computing_s:.0f} s, in the middle of an operator; "
                "use smaller inputs"
            ) from None
        except EOFError:
            raise ModelError(
                f"{self._name} ended the process that ran it: it is damaged, or needs more memory than there "
                "is; export it again"
            ) from None
        if "failure" in answer.values:
            raise RuntimeError(answer.values["failure"])
        return [answer.arrays[f"{i}"] for i in range(len(names))]

    def end_profiling(self) -> None:
        """Write the profile that `trace` asked for."""
        _keeper.ask(self._worker, {"do": "end_profiling", "key": self._key}, {}, OPEN_S)


def open_isolated(
    model: bytes | ir.Model, *, name: str, optimize: bool = True, trace: Path | None = None
) -> IsolatedSession:
    """Open a model on the CPU, in a process of its own that is limited in time and memory.

    `onnxadmm.bench.run` and `run_batched` take the session like any other.

    Args:
        model: The model, serialised or not.
        name: What messages call it.
        optimize: False computes the graph as it is written, node by node.
        trace: A folder that receives `optimized.onnx`, the graph that really runs.

    Raises:
        ModelError: ONNX Runtime doesn't take the model, crashes on it or doesn't come to an end.
        ResourceError: No memory or disk space for it, or no process can be started.
    """
    from onnxadmm.graph import stage_model, temporary_folder

    # Once it is open its files may go: what is mapped stays.
    with temporary_folder() as folder:
        return IsolatedSession.open(
            stage_model(model, folder, mapped=True),
            name=one_line(name, 80),
            optimize=optimize,
            trace=trace,
        )
