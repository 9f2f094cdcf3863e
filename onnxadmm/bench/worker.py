"""The process that holds one model, and does what the benchmark asks over two pipes.

It answers `open`, `warm`, `time` and `memory`, each with one frame; a fault is a frame with `error`. It
ends when its standard input does, and never outlives its parent.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil

from onnxadmm.bench.placement import stay_on
from onnxadmm.bench.sessions import ProviderError, explain, open_session
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

_PR_SET_PDEATHSIG = 1


class _Worker:
    """One model, one set of inputs, one process."""

    def __init__(self) -> None:
        self.session: Any = None
        self.provider = "cpu"
        self.name = "model"
        self.run: Callable[[], None] | None = None
        self.runs_a_sample = 1
        self.lead_in = True

    def open(self, message: Message) -> tuple[dict[str, Any], Arrays]:
        """Create the session; its time is that of ONNX Runtime alone, imports and libraries loaded."""
        values = message.values
        self.provider, self.name = values["provider"], values["name"]
        # Before ONNX Runtime starts threads: they inherit it.
        stay_on(values["cores"])
        import onnxruntime  # noqa: F401  (its loading isn't the session's)

        began = time.perf_counter()
        self.session = open_session(
            Path(values["model"]), values["provider"], values["threads"], name=values["name"]
        )
        return {"session_s": time.perf_counter() - began}, {}

    def warm(self, message: Message) -> tuple[dict[str, Any], Arrays]:
        """Bind the inputs, run until the times settle, and choose how many runs make a sample."""
        import onnxruntime as ort

        binding = self.session.io_binding()
        device = "cuda" if self.provider == "cuda" else "cpu"
        held = []
        for name, array in message.arrays.items():
            # Text has no place on a GPU.
            where = device if array.dtype.kind not in "USO" else "cpu"
            value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), where, 0)
            binding.bind_ortvalue_input(name, value)
            held.append(value)
        for output in self.session.get_outputs():
            binding.bind_output(output.name, device)
        run_bound = self.session.run_with_iobinding
        synchronize = binding.synchronize_outputs

        def run(_held: list[Any] = held) -> None:
            run_bound(binding)
            synchronize()

        self.run = run
        run_ms = settle(run)
        self.runs_a_sample = min(MAX_RUNS_A_SAMPLE, max(1, int(np.ceil(SAMPLE_MS / run_ms))))
        self.lead_in = run_ms < LEAD_IN_BELOW_MS
        gc.collect()
        gc.disable()
        return {"run_ms": run_ms, "runs": self.runs_a_sample}, {}

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
        """Return the peak of the resident set so far."""
        return {"peak_bytes": peak_resident_bytes()}, {}


def settle(run: Callable[[], None]) -> float:
    """Run until it gets no faster, and return the time of a run in ms.

    Windows of runs are compared by their fastest run. Noise only ever makes runs slower, so a busy
    machine ends the warm-up early rather than never; it is bounded by `WARM_UP_MS` as well.
    """
    fastest = np.inf
    calm = 0
    began = time.perf_counter()
    run()
    while True:
        window: list[float] = []
        while len(window) < WINDOW_RUNS or sum(window) < WINDOW_MS:
            start = time.perf_counter()
            run()
            window.append((time.perf_counter() - start) * 1e3)
            if (time.perf_counter() - began) * 1e3 > WARM_UP_MS:
                return float(max(np.median(window), 1e-4))
        calm = 0 if min(window) < fastest * STILL_FASTER else calm + 1
        fastest = min(fastest, *window)
        if calm >= CALM_WINDOWS:
            return float(max(np.median(window), 1e-4))


def peak_resident_bytes() -> int:
    """Return the largest resident set of this process since it began."""
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
    worker = _Worker()
    while (message := _next(requests)) is not None:
        try:
            values, arrays = getattr(worker, message.values["do"])(message)
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
