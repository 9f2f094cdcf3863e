"""How a run says where it is, and how it is asked to stop.

The stages speak and ask; the command line, or a caller in Python, listens and answers.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Tick:
    """One sign of life within a stage.

    Attributes:
        done: Units of work that are done.
        total: Units that there are.
        text: What the unit was, with the figures that matter now.
    """

    done: int
    total: int
    text: str


class Progress(Protocol):
    """A listener. Every method returns at once."""

    def stage(self, name: str) -> None:
        """A stage begins; the one before is done."""

    def tick(self, tick: Tick) -> None:
        """The stage moved on."""

    def note(self, text: str) -> None:
        """Something that a person should read: one line."""

    def warn(self, text: str) -> None:
        """Something that a person should act on: one line."""


class Silent:
    """A listener that says nothing: the default from Python."""

    def stage(self, name: str) -> None:
        """See `Progress`."""

    def tick(self, tick: Tick) -> None:
        """See `Progress`."""

    def note(self, text: str) -> None:
        """See `Progress`."""

    def warn(self, text: str) -> None:
        """See `Progress`."""


class StopRequest(Protocol):
    """Somebody who may want the run to stop."""

    def deferred(self) -> AbstractContextManager[None]:
        """Within this, the wish is kept until `check` is called: the run has state to save."""

    def check(self) -> None:
        """Raise `Interrupted` when the run shall stop."""


class NeverStop:
    """Nobody who wants the run to stop: the default from Python."""

    def deferred(self) -> AbstractContextManager[None]:
        """See `StopRequest`."""
        return contextlib.nullcontext()

    def check(self) -> None:
        """See `StopRequest`."""
