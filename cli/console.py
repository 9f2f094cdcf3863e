"""Progress for people: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from onnxadmm.errors import one_line
from onnxadmm.progress import Tick

if TYPE_CHECKING:
    from onnxadmm.report import Report

PLAIN_INTERVAL_S = 10.0
"""Without a terminal, a line within an epoch is printed at most so often."""

STAGES = {
    "analyse": "labelling channels",
    "count": "counting parameters and MACs",
    "data": "reading data",
    "import": "importing into torch, comparing with ONNX Runtime",
    "train": "training by ADMM",
    "retrain": "retraining the cut model",
    "project": "projecting in one shot",
    "cut": "cutting channels",
    "prove": "proving that cut equals masked",
    "quantize": "quantizing",
    "pack": "packing tensors",
    "evaluate": "evaluating",
    "benchmark": "benchmarking",
}


class Console:
    """A listener (`onnxadmm.progress.Progress`) that prints to stderr; results go to stdout."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Choose the form: quiet but for warnings, a bar where stderr is a terminal, lines elsewhere."""
        self._err = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last = 0.0
        self._stage = ""

    def __enter__(self) -> Self:
        if self._err.is_terminal and not self._quiet:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                console=self._err,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, name: str) -> None:
        """Announce a stage."""
        self._stage = name
        text = STAGES.get(name, name)
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(text, total=None, text="")
        else:
            self._line(f"[{name}] {text}")

    def tick(self, tick: Tick) -> None:
        """Move the bar, or print a line when the last one is old enough."""
        text = one_line(tick.text, 200)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=tick.done, total=tick.total or None, text=text)
            return
        if time.monotonic() - self._last >= PLAIN_INTERVAL_S:
            share = f" {100 * tick.done / tick.total:.0f} %" if tick.total else ""
            self._line(f"[{self._stage}]{share} {text}")

    def note(self, text: str) -> None:
        """Print a line."""
        self._line(f"[{self._stage}] {one_line(text, 240)}")

    def warn(self, text: str) -> None:
        """Print a warning, also when quiet: it tells of something lost, or that won't be gained."""
        self._print(f"warning: {one_line(text, 260)}")

    def result(self, report: Report, folder: Path) -> None:
        """Print the table of the result, what failed, and where the files are; to stdout."""
        from onnxadmm.report.summary import remarks
        from onnxadmm.report.terminal import summary_table

        out = RichConsole(highlight=False)
        out.print(summary_table(report))
        for text in remarks(report):
            out.print(f"note: {text}", markup=False)
        for gate in report.gates:
            mark = "passed" if gate.passed else "FAILED"
            out.print(f"{mark}  {gate.name}: {gate.message}", markup=False)
        out.print(
            f"wrote {one_line(folder, 200)}: model.onnx, report.html, report.json, report.md, report.xml",
            markup=False,
        )

    def _line(self, text: str) -> None:
        if not self._quiet:
            self._print(text)

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        # Plain text: names in it are a stranger's, and rich would read [brackets] as markup.
        self._err.print(text, markup=False)
