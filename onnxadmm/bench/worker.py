"""The process that holds sessions, and does what is asked over two pipes.

For the benchmark it holds one model, and answers `open`, `warm`, `time`, `memory` and `trace`; for
`onnxadmm.bench.isolated` it holds any number, and answers `load`, `run` and `end_profiling`. Each answer is one
frame; a fault is a frame with `error`. It ends when its standard input does, and never outlives its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil

from onnxadmm.bench.device import DeviceMemory
from onnxadmm.bench.placement import stay_on
from onnxadmm.bench.profile import read_profile
from onnxadmm.bench.providers import ProviderError, device
from onnxadmm.bench.running import run_here
from onnxadmm.bench.sessions import OPTIMIZED, explain, open_session
from onnxadmm.bench.tracing import LOG, logged, nodes_of, with_names
from onnxadmm.bench.wire import Arrays, Message, decode, encode
from onnxadmm.errors import ModelError, OnnxadmmError, ResourceError, one_line

# A sample shorter than this would mostly measure the scheduler and the clock.
SAMPLE_MS = 2.0
MAX_RUNS_A_SAMPLE = 2000
# Beyond this, filling the caches again is no part of a run worth mentioning.
LEAD_IN_BELOW_MS = 100.0
WARM_UP_MS = 2000.0
WINDOW_RUNS = 5
WINDOW_MS = 10.0
STILL_FASTER = 0.98
CALM_WINDOWS = 2
TRACED_WARM_UP = 3
TRACED_RUNS = (5, 200)
TRACED_MS = 200.0

_PR_SET_PDEATHSIG = 1


class _Worker:
    """One model, one set of inputs, one process."""

    def __init__(self) -> None:
        self.session: Any = None
        self.model = Path()
        self.trace_folder: Path | None = None
        self.provider = "cpu"
        self.name = "model"
        self.run: Callable[[], None] | None = None
        self.runs_a_sample = 1
        self.lead_in = True
        self.resident_before = 0
        self.gpu: DeviceMemory | None = None
        self.gpu_bytes = 0

    def open(self, message: Message) -> tuple[dict[str, Any], Arrays]:
        """Create the session; its time is that of ONNX Runtime alone, imports and libraries loaded."""
        values = message.values
        self.provider, self.name = values["provider"], values["name"]
        # Before ONNX Runtime starts threads: they inherit it.
        stay_on(values["cores"])
        import onnxruntime  # noqa: F401  (its loading isn't the session's)

        if device(self.provider) == "cuda":
            with contextlib.suppress(OSError):
                self.gpu = DeviceMemory()
        forget_peak()
        self.resident_before = psutil.Process().memory_info().rss
        before = self._gpu_used()
        self.model = Path(values["model"])
        self.trace_folder = Path(values["trace"]) if values.get("trace") else None
        if self.trace_folder is not None:
            self.model = with_names(self.model, self.trace_folder)
        began = time.perf_counter()
        with logged(self.trace_folder):
            self.session = open_session(
                self.model,
                values["provider"],
                values["threads"],
                name=values["name"],
                trace=self.trace_folder,
            )
        took = time.perf_counter() - began
        self.gpu_bytes = self._gpu_used() - before
        return {"session_s": took}, {}

    def _gpu_used(self) -> int:
        return self.gpu.used_bytes() if self.gpu is not None else 0

    def warm(self, message: Message) -> tuple[dict[str, Any], Arrays]:
        """Bind the inputs, run until the times settle, and choose how many runs make a sample."""
        before = self._gpu_used()
        self.run = self._bind(message.arrays)
        warm = settle(self.run)
        self.runs_a_sample = min(MAX_RUNS_A_SAMPLE, max(1, int(np.ceil(SAMPLE_MS / warm.run_ms))))
        self.lead_in = warm.run_ms < LEAD_IN_BELOW_MS
        # The arena keeps what it took, so that what is in use now is the peak.
        self.gpu_bytes += self._gpu_used() - before
        gc.collect()
        gc.disable()
        return {
            "run_ms": warm.run_ms,
            "first_ms": warm.first_ms,
            "warm_up_runs": warm.runs,
            "settled": warm.settled,
            "runs": self.runs_a_sample,
        }, {}

    def _bind(self, inputs: Arrays) -> Callable[[], None]:
        """Put the inputs where the model runs, and return a run that leaves the outputs there."""
        import onnxruntime as ort

        binding = self.session.io_binding()
        place = device(self.provider)
        held = []
        for name, array in inputs.items():
            # Text has no place on a GPU.
            where = place if array.dtype.kind not in "USO" else "cpu"
            value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), where, 0)
            binding.bind_ortvalue_input(name, value)
            held.append(value)
        for output in self.session.get_outputs():
            binding.bind_output(output.name, place)
        run_bound = self.session.run_with_iobinding
        synchronize = binding.synchronize_outputs

        def run(_held: list[Any] = held) -> None:
            run_bound(binding)
            synchronize()

        return run

    def time(self, message: Message) -> tuple[dict[str, Any], Arrays]:  # noqa: ARG002
        """Take one sample: the time of each of its runs, in nanoseconds."""
        assert self.run is not None
        if self.lead_in:
            # The other models' weights are in the caches now.
            self.run()
        times = np.empty(self.runs_a_sample + 1, np.int64)
        run, clock = self.run, time.perf_counter_ns
        times[0] = clock()
        for i in range(1, self.runs_a_sample + 1):
            run()
            times[i] = clock()
        return {}, {"run_ns": np.diff(times)}

    def memory(self, message: Message) -> tuple[dict[str, Any], Arrays]:  # noqa: ARG002
        """Return what session and runs have taken so far, at most."""
        return {
            "peak_bytes": max(0, peak_resident_bytes() - self.resident_before),
            "device_bytes": max(0, self.gpu_bytes) if self.gpu is not None else None,
        }, {}

    def trace(self, message: Message) -> tuple[dict[str, Any], Arrays]:
        """Run a few times under ONNX Runtime's profiler, and return where the time went."""
        assert self.trace_folder is not None
        run = self._bind(message.arrays)
        for _ in range(TRACED_WARM_UP):
            run()
        runs, until = 0, time.perf_counter() + TRACED_MS / 1e3
        least, most = TRACED_RUNS
        while runs < least or (runs < most and time.perf_counter() < until):
            run()
            runs += 1
        events = json.loads(Path(self.session.end_profiling()).read_bytes())
        log = (self.trace_folder / LOG).read_text("utf-8", errors="replace")
        optimized = self.trace_folder / OPTIMIZED
        profile = read_profile(
            events,
            runs,
            self.provider,
            log=log.splitlines(),
            source=nodes_of(self.model),
            optimized=nodes_of(optimized) if optimized.exists() else (),
        )
        return {"profile": profile.to_plain()}, {}


class _Sessions(_Worker):
    """What a worker answers, with any number of sessions beside the one that is timed."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, Any] = {}

    def drop(self, keys: Sequence[int]) -> None:
        """Let sessions go, with their memory."""
        for key in keys:
            self.held.pop(key, None)
        if keys:
            # glibc keeps what is freed for itself.
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).malloc_trim(0)

    def start(self, message: Message) -> tuple[dict[str, Any], Arrays]:  # noqa: ARG002
        """Import what takes time."""
        import onnxruntime  # noqa: F401

        return {}, {}

    def load(self, message: Message) -> tuple[dict[str, Any], Arrays]:
        """Make a session and describe its interface."""
        values = message.values
        self.name = values["name"]
        session = open_session(
            Path(values["model"]),
            name=values["name"],
            optimize=values["optimize"],
            trace=Path(values["trace"]) if values["trace"] else None,
        )
        self.held[values["key"]] = session
        ports = {
            "inputs": session.get_inputs(),
            "defaults": session.get_overridable_initializers(),
            "outputs": session.get_outputs(),
        }
        return {what: [[p.name, p.shape] for p in listed] for what, listed in ports.items()}, {}

    def run_once(self, message: Message) -> tuple[dict[str, Any], Arrays]:
        """Run a session; what ONNX Runtime says against the inputs is an answer like another."""
        values = message.values
        session = self.held[values["key"]]
        try:
            found = run_here(session, values["names"], message.arrays, values["limit_s"])
        except OnnxadmmError:
            raise
        except MemoryError:
            return {"failure": "out of memory"}, {}
        except Exception as e:  # noqa: BLE001  (the bindings raise a dozen unrelated types)
            return {"failure": str(e)[:4000]}, {}
        return {}, {str(i): value for i, value in enumerate(found)}

    def end_profiling(self, message: Message) -> tuple[dict[str, Any], Arrays]:
        """Write a session's profile."""
        self.held[message.values["key"]].end_profiling()
        return {}, {}


_ANSWERS: dict[str, Callable[[_Sessions, Message], tuple[dict[str, Any], Arrays]]] = {
    "open": _Sessions.open,
    "warm": _Sessions.warm,
    "time": _Sessions.time,
    "memory": _Sessions.memory,
    "trace": _Sessions.trace,
    "start": _Sessions.start,
    "load": _Sessions.load,
    "run": _Sessions.run_once,
    "end_profiling": _Sessions.end_profiling,
}


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How warming up went: the first run, the runs it took, the time of one then, and whether it settled."""

    first_ms: float
    runs: int
    run_ms: float
    settled: bool


def settle(run: Callable[[], None]) -> WarmUp:
    """Run until it gets no faster.

    Windows of runs are compared by their fastest run. Noise only ever makes runs slower, so a busy
    machine ends the warm-up early rather than never; it is bounded by `WARM_UP_MS` as well.
    """
    fastest = np.inf
    calm = 0
    runs = 1
    began = time.perf_counter()
    run()
    first_ms = (time.perf_counter() - began) * 1e3
    while True:
        window: list[float] = []
        while len(window) < WINDOW_RUNS or sum(window) < WINDOW_MS:
            start = time.perf_counter()
            run()
            window.append((time.perf_counter() - start) * 1e3)
            runs += 1
            if (time.perf_counter() - began) * 1e3 > WARM_UP_MS:
                return WarmUp(first_ms, runs, float(max(np.median(window), 1e-4)), settled=False)
        calm = 0 if min(window) < fastest * STILL_FASTER else calm + 1
        fastest = min(fastest, *window)
        if calm >= CALM_WINDOWS:
            return WarmUp(first_ms, runs, float(max(np.median(window), 1e-4)), settled=True)


def forget_peak() -> None:
    """Let the peak of the resident set start from now, where Linux allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")


def peak_resident_bytes() -> int:
    """Return the largest resident set of this process since it began, or since `forget_peak`."""
    try:
        # getrusage would do nearly as well, but its peak survives exec: it can be the parent's.
        status = Path("/proc/self/status").read_text("utf-8")
        return next(int(x.split()[1]) * 1024 for x in status.splitlines() if x[:6] == "VmHWM:")
    except (OSError, StopIteration):
        return int(psutil.Process().memory_info().rss)


def die_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends, even in the middle of a run."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It was gone before we asked.
        os._exit(1)


def main() -> None:
    """Serve requests until standard input ends. Argument: the process id of the parent."""
    # Ctrl-C goes to the whole group; it is the parent who decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(int(sys.argv[-1]))
    # Libraries print to standard output what they like; the frames get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = os.fdopen(0, "rb", closefd=False)
    worker = _Sessions()
    while (message := _next(requests)) is not None:
        worker.drop(message.values.get("drop", ()))
        try:
            values, arrays = _ANSWERS[message.values["do"]](worker, message)
        except Exception as e:  # noqa: BLE001  (whatever it is, the parent words it)
            values, arrays = _fault(e, worker.name, message.values["do"]), {}
        answers.write(encode(values, arrays))
        answers.flush()
    # Unloading a session and a GPU context takes time that nobody needs.
    os._exit(0)


def _next(requests: BinaryIO) -> Message | None:
    def read(size: int) -> bytes:
        content = requests.read(size)
        if len(content) < size:
            raise EOFError
        return content

    try:
        return decode(read)
    except EOFError:
        return None


def _fault(error: Exception, name: str, doing: str) -> dict[str, Any]:
    """Return what went wrong as a kind that the parent acts on, and a line."""
    if not isinstance(error, OnnxadmmError):
        mine = explain(error, f"model {name}")
        if doing == "warm" and type(mine) is ModelError:
            # It opened, so the model is sound: it doesn't run on this batch size.
            text = one_line(str(error).removeprefix("[ONNXRuntimeError] : "), 150)
            return {"error": "feeds", "reason": f"model {name} can't run on these inputs: {text}"}
        error = mine
    kinds = ((ProviderError, "provider"), (ResourceError, "resource"), (ModelError, "model"))
    kind = next((name for cls, name in kinds if isinstance(error, cls)), "model")
    return {"error": kind, "reason": str(error)}


if __name__ == "__main__":
    main()
