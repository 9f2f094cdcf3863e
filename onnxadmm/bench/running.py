"""Runs of a stranger's graph in this process, limited in time and memory.

The probe (`onnxadmm.graph.probe`) has run the graph in a child by then, on random inputs. But what a graph
does can depend on its inputs: a Loop may end on those and never on these.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxadmm.errors import ModelError, one_line
from onnxadmm.memory import GIB, limited_memory, physical_bytes

if TYPE_CHECKING:
    import onnxruntime

Array = np.ndarray[Any, Any]

BASE_S = 20.0
"""Seconds that every run may take."""
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


def run(
    session: onnxruntime.InferenceSession, names: Sequence[str], feed: Mapping[str, Array]
) -> list[Array]:
    """Run a session, stopped after the time that `paced` grants and limited to the memory that is free.

    ONNX Runtime looks whether it shall stop between two operators, in every subgraph too. So a Loop that
    never ends is stopped; one operator that takes hours by itself is not.

    Raises:
        ModelError: It was stopped, or asked for more memory than the machine has.
        Exception: What ONNX Runtime raises.
    """
    import onnxruntime as ort

    pace = _pace.get()
    with limited_memory():
        if pace is None:
            return list(session.run(list(names), dict(feed)))
        options = ort.RunOptions()
        limit = pace.limit_s(feed)
        watch = threading.Timer(limit, lambda: setattr(options, "terminate", True))
        watch.daemon = True
        watch.start()
        try:
            return list(session.run(list(names), dict(feed), options))
        except Exception as e:
            if options.terminate:
                raise ModelError(
                    f"the model takes too long: a run was stopped after {limit:.0f} s, where its first one "
                    f"took {pace.seconds:.1f} s; a Loop may never end on these inputs"
                ) from None
            raise_excessive(e)
            raise
        finally:
            watch.cancel()


def raise_excessive(error: Exception) -> None:
    """Raise a ModelError where ONNX Runtime failed to allocate what no free memory would satisfy."""
    text = str(error)
    asked = re.search(r"buffer of size (\d+)", text)
    if asked and int(asked[1]) > physical_bytes():
        raise ModelError(
            f"the model asks for {int(asked[1]) / GIB:.0f} GiB of memory at once, and the machine has "
            f"{physical_bytes() / GIB:.0f} GiB; above the limit ({one_line(text, 60)})"
        ) from None
