"""SIGINT and SIGTERM: save what training has reached, say how to go on, and stop."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Self

from onnxadmm.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """What a signal raises wherever the run is: nobody on the way may take it for something else.

    So it is no `Exception`; and no `KeyboardInterrupt`, of which click makes its own.

    Attributes:
        reason: What `Interrupted` says of it.
    """

    def __init__(self, reason: Interrupted) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Signals:
    """Catches the two signals while it is entered (`onnxadmm.progress.StopRequest`).

    A signal during training waits for the end of the step, so that the state can be saved. At any other
    time it stops the run at once: a stage without a checkpoint of its own is repeated. A second signal
    never waits.
    """

    def __init__(self, folder: Path, *, saves: bool = True) -> None:
        """Name the output folder: where checkpoints would be, if the run saves any."""
        self._folder, self._saves = folder, saves
        self._received: list[int] = []
        self._deferring = False

    def __enter__(self) -> Self:
        self._before = {s: signal.signal(s, self._handle) for s in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, old in self._before.items():
            signal.signal(number, old)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Keep a signal until `check`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        self.check()

    def check(self) -> None:
        """Raise `Interrupted` once a signal has come."""
        if self._received:
            raise self._interrupted(self._received[0])

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._received.append(number)
        if not self._deferring or len(self._received) > 1:
            raise Stopped(self._interrupted(number))

    def _interrupted(self, number: int) -> Interrupted:
        name = signal.Signals(number).name
        if not self._saves:
            return Interrupted(
                f"interrupted by {name}, without checkpoints; nothing was written, run it again",
                number,
            )
        if self._deferring or any((self._folder / "checkpoints").rglob("*.json")):
            words = [a for a in sys.argv[1:] if a not in {"--resume", "--restart"}]
            again = shlex.join(["onnxadmm", *words, "--resume"])
            return Interrupted(
                f"interrupted by {name}, a checkpoint is saved; to go on: {again}", number
            )
        return Interrupted(
            f"interrupted by {name} before training; nothing was written, run it again", number
        )
