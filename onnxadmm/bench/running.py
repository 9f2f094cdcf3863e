"""Runs of a stranger's graph, limited in time and memory.

The probe (`onnxadmm.graph.probe`) has run the graph in a child by then, on random inputs. But what a graph
does can depend on its inputs: a Loop may end on those and never on these.
"""

from __future__ import annotations

import abc
import contextlib
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from onnxadmm.errors import ModelError, one_line
from onnxadmm.memory import GIB, limited_memory, physical_bytes

if TYPE_CHECKING:
    import onnxruntime

Array = np.ndarray[Any, Any]

BASE_S = 20.0
"""Seconds that every run may take."""
PATIENCE = 8.0
"""How many times as long a run may take by the clock, where others keep it from computing."""
_LOOK_S = 0.2
SLOWER = 10.0
"""A run may take so many times longer than the probe's, element of the inputs for element."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a graph ran once.

    Attributes:
        seconds: What a run took.
        elements: Elements of its inputs, all together.
    """

    seconds: float = 0.0
    elements: int = 1

    def limit_s(self, feed: Mapping[str, Array]) -> float:
        """Return how long a run on these inputs may take, in seconds."""
        share = sum(getattr(a, "size", 1) for a in feed.values()) / max(1, self.elements)
        return BASE_S + SLOWER * self.seconds * max(1.0, share)


_pace: ContextVar[Pace | None] = ContextVar("pace", default=None)


@contextlib.contextmanager
def paced(pace: Pace) -> Iterator[None]:
    """Within it, `run` stops a run that takes much longer than this pace."""
    token = _pace.set(pace)
    try:
        yield
    finally:
        _pace.reset(token)


class Elsewhere(abc.ABC):
    """A session that another process holds (`onnxadmm.bench.isolated`)."""

    @abc.abstractmethod
    def get_inputs(self) -> Sequence[Any]:
        """Return the inputs that must be fed, each with name and shape."""

    @abc.abstractmethod
    def get_overridable_initializers(self) -> Sequence[Any]:
        """Return the inputs that have a default."""

    @abc.abstractmethod
    def get_outputs(self) -> Sequence[Any]:
        """Return the outputs."""

    @abc.abstractmethod
    def run(
        self, names: Sequence[str], feed: Mapping[str, Any], limit_s: float | None
    ) -> list[Any]:
        """Run it, stopped after so many seconds."""


Session: TypeAlias = "onnxruntime.InferenceSession | Elsewhere"


def run(
    session: Session,
    names: Sequence[str],
    feed: Mapping[str, Array],
) -> list[Array]:
    """Run a session, stopped after the time that `paced` grants and limited to the memory that is free.

    Raises:
        ModelError: It was stopped, or asked for more memory than the machine has.
        Exception: What ONNX Runtime raises.
    """
    pace = _pace.get()
    limit_s = None if pace is None else pace.limit_s(feed)
    if isinstance(session, Elsewhere):
        return session.run(names, feed, limit_s)
    return run_here(session, names, feed, limit_s)


def run_here(
    session: onnxruntime.InferenceSession,
    names: Sequence[str],
    feed: Mapping[str, Any],
    limit_s: float | None,
) -> list[Any]:
    """Run a session of this process.

    ONNX Runtime looks whether it shall stop between two operators, in every subgraph too. So a Loop that
    never ends is stopped; one operator that takes hours by itself is not.

    Args:
        session: The session.
        names: Of the outputs.
        feed: Input name -> value.
        limit_s: When it is stopped, in seconds of this process's CPU time; after `PATIENCE` times as many by the
            clock, whatever others take of the machine. None for never.

    Raises:
        ModelError: It was stopped, or asked for more memory than the machine has.
        Exception: What ONNX Runtime raises.
    """
    import onnxruntime as ort

    with limited_memory():
        if limit_s is None:
            return list(session.run(list(names), dict(feed)))
        options = ort.RunOptions()
        done = threading.Event()
        watch = threading.Thread(target=_terminate, args=(options, limit_s, done), daemon=True)
        watch.start()
        try:
            return list(session.run(list(names), dict(feed), options))
        except Exception as e:
            if options.terminate:
                raise ModelError(
                    f"the model takes too long: a run was stopped after {limit_s:.0f} s, much more than its first "
                    "one took; a Loop may never end on these inputs"
                ) from None
            raise_excessive(e)
            raise
        finally:
            done.set()


def _terminate(options: onnxruntime.RunOptions, limit_s: float, done: threading.Event) -> None:
    """Let a run stop when its time is over, unless it is done before."""
    computed_s, started_s = time.process_time(), time.monotonic()
    # Nobody computes for longer than the clock runs, but for several threads: those get the clock's time too.
    left_s = limit_s
    while not done.wait(max(left_s, _LOOK_S)):
        passed_s = time.monotonic() - started_s
        left_s = limit_s - min(time.process_time() - computed_s, passed_s)
        if left_s <= 0 or passed_s > PATIENCE * limit_s:
            options.terminate = True
            return


def raise_excessive(error: Exception) -> None:
    """Raise a ModelError where ONNX Runtime failed to allocate what no free memory would satisfy."""
    text = str(error)
    asked = re.search(r"buffer of size (\d+)", text)
    if asked and int(asked[1]) > physical_bytes():
        raise ModelError(
            f"the model asks for {int(asked[1]) / GIB:.0f} GiB of memory at once, and the machine has "
            f"{physical_bytes() / GIB:.0f} GiB; above the limit ({one_line(text, 60)})"
        ) from None
