"""What must hold of any bytes that come as a model or as a spec, and the watch that sees it broken."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from onnxadmm.errors import OnnxadmmError
from onnxadmm.graph import loading
from onnxadmm.graph.child import check
from onnxadmm.pipeline import inspect
from onnxadmm.spec import Spec, dump_spec, parse_spec, read_spec

LIMIT_S = 10.0
# Of Python's audit events, those that a file must never cause. Opening is judged by its path.
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.link",
    "os.symlink",
    "os.chmod",
    "pickle.find_class",
    "socket.connect",
    "urllib.Request",
    "shutil.",
    "webbrowser.open",
)


class BrokenPromise(BaseException):  # no product code may catch it
    """What SECURITY.md promises doesn't hold for this input."""


class _Watch:
    """Sees what Python opens and runs while a file is read; one for the process: hooks can't be removed."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    @contextlib.contextmanager
    def over(self, folder: Path):
        self.folder, self.seen = os.path.realpath(folder), []
        try:
            yield
        finally:
            self.folder = None
        if self.seen:
            raise BrokenPromise(self.seen[0])

    def _hook(self, event: str, args: tuple) -> None:
        if self.folder is None:
            return
        if event.startswith(FORBIDDEN):
            self.seen.append(f"{event} {args!r:.200}")
        elif event == "open" and isinstance(args[0], str | bytes):
            self._judge(os.fsdecode(args[0]), args[1], args[2])

    def _judge(self, path: str, mode: str | None, flags: int) -> None:
        relative = not path.startswith("/")
        # A bare name is opened beneath a folder that is open already.
        inside = relative and "/" not in path and path != ".."
        inside = inside or os.path.realpath(path).startswith((self.folder or "") + "/")
        inside = inside or os.path.realpath(path) == self.folder
        ours = path.startswith(_OURS)
        if not inside and not ours:
            self.seen.append(f"opened {path!r}")
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        if writes or (mode is not None and set(mode) & set("wax+")):
            self.seen.append(f"opened {path!r} to write")


# The machine's own facts, and code that is imported late.
_OURS = ("/proc/meminfo", "/sys/fs/cgroup/", *(f"{p}/" for p in {*sys.path, sys.base_prefix} if p))
WATCH = _Watch()


def load(content: bytes, folder: Path) -> bool:
    """Load bytes as a model file, and return whether they were taken.

    The ONNX checker runs in this process: a child for each input would take all the time. `look` runs
    it where it belongs.
    """
    path = folder / "model.onnx"
    path.write_bytes(content)
    with _checker_inside(), _promises(folder, 3, 4):
        loading.load_model(path)
        return True
    return False


def look(content: bytes, folder: Path) -> bool:
    """Inspect bytes as a model file, all children included, and return whether they were taken."""
    path = folder / "model.onnx"
    path.write_bytes(content)
    with _refusal(3, 4):
        inspect(path)
        return True
    return False


def read(content: bytes, folder: Path) -> bool:
    """Read bytes as a spec, and return whether they were taken; one that is must survive a round trip."""
    path = folder / "spec.yaml"
    path.write_bytes(content)
    with _promises(folder, 2):
        spec = read_spec(path)
        _check_round_trip(spec)
        return True
    return False


@contextlib.contextmanager
def _checker_inside():
    """Run the ONNX checker in this process."""
    held = loading.run_limited
    loading.run_limited = lambda task, payload, **limits: check(payload)
    try:
        yield
    finally:
        loading.run_limited = held


def _check_round_trip(spec: Spec) -> None:
    if parse_spec(dump_spec(spec)) != spec:
        raise BrokenPromise("the spec that is written out is another one")


@contextlib.contextmanager
def _promises(folder: Path, *exits: int):
    with WATCH.over(folder), _refusal(*exits):
        yield


@contextlib.contextmanager
def _refusal(*exits: int):
    """Let a clean refusal pass, in time; anything else is a finding."""
    started = _busy_s()
    try:
        yield
    except OnnxadmmError as e:
        message = str(e)
        if e.exit_code not in exits:
            raise BrokenPromise(f"exit {e.exit_code}: {message}") from e
        if not message or len(message) > 280 or not message.isprintable():
            raise BrokenPromise(f"no printable line: {message!r}") from e
    except Exception as e:
        raise BrokenPromise(f"{type(e).__name__}: {e}") from e
    took = _busy_s() - started
    if took > LIMIT_S:
        raise BrokenPromise(f"took {took:.0f} s")


def _busy_s() -> float:
    """Return what this process and its children have computed, in seconds: a busy machine is no finding."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
