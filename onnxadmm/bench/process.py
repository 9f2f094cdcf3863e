"""The parent's side of a worker: start it, ask it, and know what happened when it doesn't answer."""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil

from onnxadmm.bench.profile import Profile
from onnxadmm.bench.providers import ProviderError
from onnxadmm.bench.results import Setting
from onnxadmm.bench.wire import Message, decode, encode
from onnxadmm.errors import DataError, ModelError, OnnxadmmError, ResourceError, one_line

_CHUNK = 1 << 16
_GOODBYE_S = 0.5
_LOOK_S = 1.0
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from onnxadmm.bench import worker; worker.main()"

_ERRORS: dict[str, type[OnnxadmmError]] = {
    "provider": ProviderError,
    "resource": ResourceError,
    "model": ModelError,
    "feeds": DataError,
}


@dataclass(frozen=True, slots=True)
class Warmth:
    """What warming up showed: runs a sample, the first run, and whether and after how many they settled."""

    runs: int
    first_ms: float
    warm_up_runs: int
    settled: bool


class WorkerProcess:
    """A process that holds one model; a context manager that leaves nothing behind.

    Between requests it blocks on its pipe and uses no CPU. Each request has `limit_s` to be answered.
    """

    def __init__(
        self, name: str, limit_s: float, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = one_line(name, 60)
        self.is_torn = False
        """Whether a request was left in the middle: the next answer wouldn't be the next request's."""
        self._limit_s = limit_s
        self._allowed_s = math.inf
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by __exit__)
        # The child finds the same packages as we do, and nothing else: no current directory.
        paths = json.dumps([os.path.abspath(p) for p in sys.path])  # noqa: PTH100
        try:
            self._process = subprocess.Popen(  # noqa: S603  (our own interpreter and code)
                [sys.executable, "-P", "-c", _START, paths, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                bufsize=0,
                # NumPy's own threads only add memory.
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"} | dict(environment or {}),
            )
        except OSError as e:
            self._log.close()
            raise ResourceError(
                f"benchmark: can't start a process: {e.strerror}; free memory or raise the limit"
            ) from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        # Non-blocking, so that a worker that hangs can't hang us.
        os.set_blocking(self._to.fileno(), False)
        os.set_blocking(self._from.fileno(), False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._to.close()
        self._from.close()
        if kind is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GOODBYE_S)
        self._process.kill()
        self._process.wait()
        self._log.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

    def open(
        self,
        model: Path,
        setting: Setting,
        cores: Sequence[int] = (),
        trace: Path | None = None,
    ) -> float:
        """Open the model, on these cores if any; return how long that took, in seconds.

        Args:
            model: Its file.
            setting: Where and how.
            cores: CPUs to stay on.
            trace: A folder for the graph that runs, the log and the profile; everything is slower then.

        Raises:
            ProviderError: The provider can't be used.
            ModelError: ONNX Runtime refuses the model, or crashes on it.
            ResourceError: Out of memory or time.
        """
        answer = self._ask(
            {
                "do": "open",
                "model": str(model.absolute()),
                "name": self.name,
                "provider": setting.provider,
                "threads": setting.threads,
                "cores": list(cores),
                "trace": str(trace.absolute()) if trace is not None else None,
            }
        )
        return float(answer.values["session_s"])

    def warm(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Warmth:
        """Hand over the inputs and warm up.

        Raises:
            DataError: The model can't run on these inputs.
            ModelError: ONNX Runtime crashes.
            ResourceError: Out of memory or time.
        """
        found = self._ask({"do": "warm"}, feeds).values
        return Warmth(
            int(found["runs"]),
            float(found["first_ms"]),
            int(found["warm_up_runs"]),
            bool(found["settled"]),
        )

    def time(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Take a sample; return the time of each run in ms."""
        times: np.ndarray[Any, np.dtype[np.float64]] = self._ask({"do": "time"}).arrays["run_ns"]
        return times / 1e6

    def memory(self) -> tuple[int, int | None]:
        """Return what session and runs have taken at most: of memory, and of a GPU's, in bytes."""
        found = self._ask({"do": "memory"}).values
        return int(found["peak_bytes"]), found["device_bytes"]

    def trace(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Profile:
        """Run a session that was opened with `trace` on these inputs, and return where the time went.

        Raises:
            DataError: The model can't run on these inputs.
            ModelError: ONNX Runtime crashes.
            ResourceError: Out of memory or time.
        """
        return Profile.from_plain(self._ask({"do": "trace"}, feeds).values["profile"])

    def _ask(
        self, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]] | None = None
    ) -> Message:
        try:
            return self.ask(values, arrays or {}, self._limit_s)
        except EOFError:
            raise self._death() from None
        except TimeoutError:
            raise ResourceError(
                f"benchmark of {self.name!r}: no answer in {self._limit_s:.0f} s ({values['do']}); "
                "the model is too slow or hangs ONNX Runtime: use a smaller batch size"
            ) from None

    def ask(
        self,
        values: Mapping[str, Any],
        arrays: Mapping[str, Any],
        limit_s: float,
        computing_s: float = math.inf,
    ) -> Message:
        """Send a request and return its answer.

        Args:
            values: What is asked.
            arrays: What goes with it.
            limit_s: How long to wait for an answer, by the clock.
            computing_s: How long the process may compute for it.

        Raises:
            TimeoutError: There was none in that time.
            EOFError: The process has ended.
            OnnxadmmError: What the answer says that went wrong.
        """
        try:
            frame = encode(values, arrays)
        except ValueError as e:
            raise DataError(f"inputs for {self.name!r}: {e}; give plain arrays") from None
        deadline = time.monotonic() + limit_s
        self._allowed_s = self._computed_s() + computing_s
        self.is_torn = True
        try:
            self._write(frame, deadline)
            answer = decode(lambda size: self._read(size, deadline))
        except BrokenPipeError:
            raise EOFError from None
        self.is_torn = False
        if "error" in answer.values:
            kind = _ERRORS.get(answer.values["error"], ModelError)
            raise kind(str(answer.values["reason"]))
        return answer

    def _write(self, frame: bytes, deadline: float) -> None:
        view = memoryview(frame)
        while view:
            self._wait(self._to.fileno(), selectors.EVENT_WRITE, deadline)
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(self._to.fileno(), view[:_CHUNK]) :]

    def _read(self, size: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        while size:
            self._wait(self._from.fileno(), selectors.EVENT_READ, deadline)
            try:
                part = os.read(self._from.fileno(), min(size, _CHUNK))
            except BlockingIOError:
                continue
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        """Wait until the pipe is ready.

        Raises:
            TimeoutError: It isn't by the deadline, or the process has computed for too long.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, event)
            while not selector.select(max(0.0, min(_LOOK_S, deadline - time.monotonic()))):
                if time.monotonic() >= deadline or self._computed_s() > self._allowed_s:
                    raise TimeoutError

    def _computed_s(self) -> float:
        """Return the processor time that the process has had, in seconds; 0 once it is gone."""
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self._process.pid).cpu_times()
            return float(times.user + times.system)
        return 0.0

    def _death(self) -> ModelError | ResourceError:
        """Return why the process ended, as far as its exit status and last words tell."""
        try:
            status = self._process.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        what = f"benchmark of {self.name!r}: its process"
        if -status == signal.SIGKILL:
            return ResourceError(
                f"{what} was killed, most likely for lack of memory; lower the batch size"
            )
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _CHUNK))
        words = [x for x in self._log.read().decode("utf-8", "replace").splitlines() if x.strip()]
        last = f": {one_line(words[-1], 120)}" if words else ""
        if status < 0:
            name = signal.Signals(-status).name if -status in list(signal.Signals) else -status
            return ModelError(f"{what} crashed in ONNX Runtime ({name}){last}; check the model")
        return ResourceError(f"{what} ended with status {status}{last}; check the installation")
