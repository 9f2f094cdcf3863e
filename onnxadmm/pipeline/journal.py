"""What a run tells while it goes on, and what of it the report keeps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from onnxadmm.progress import NeverStop, Progress, StopRequest, Tick
from onnxadmm.report import Stage


class _Within:
    """What a stage speaks to: all of it reaches the listener, and warnings the report as well."""

    def __init__(self, journal: Journal) -> None:
        self._journal, progress = journal, journal.progress
        self.stage, self.tick, self.note = progress.stage, progress.tick, progress.note

    def warn(self, text: str) -> None:
        self._journal.warn(text)


class Journal:
    """Stages with their times, and warnings, for the listener and for the report."""

    def __init__(self, progress: Progress, stop: StopRequest | None = None) -> None:
        """Tell a listener.

        Args:
            progress: The listener.
            stop: Asked between stages and steps. What a signal raises can be lost on its way, in code that is called
                back from C or by the collector of garbage; its wish isn't.
        """
        self.progress = progress
        self._stop = stop or NeverStop()
        self.stages: list[Stage] = []
        self.warnings: list[str] = []
        self._counted = 0

    @property
    def listener(self) -> Progress:
        """For a stage that speaks for itself: what it warns of is kept."""
        return _Within(self)

    @contextlib.contextmanager
    def stage(self, name: str, *, asked: bool = True) -> Iterator[None]:
        """Announce a stage and keep how long it took; one that fails isn't kept, one that nobody asked for isn't told."""
        if not asked:
            yield
            return
        self._stop.check()
        self.progress.stage(name)
        started = time.monotonic()
        yield
        self._stop.check()
        self.stages.append(Stage(name=name, seconds=time.monotonic() - started))

    def tick(self, done: int, total: int, text: str) -> None:
        """Say that the stage moved on."""
        self._stop.check()
        self.progress.tick(Tick(done, total, text))

    def count(self, text: str) -> None:
        """Say that the stage moved on, of which nobody knows how far it goes."""
        self._counted += 1
        self.tick(self._counted, 0, text)

    def warn(self, text: str) -> None:
        """Say something that a person should act on; the report says it too."""
        self.warnings.append(text)
        self.progress.warn(text)

    def complete(self, text: str, whole: str) -> None:
        """Let the report say a warning in full, now that more is known."""
        self.warnings = [whole if w == text else w for w in self.warnings]
