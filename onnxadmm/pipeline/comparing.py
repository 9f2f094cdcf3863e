"""The reports of several runs, compared and written down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxadmm.errors import one_line
from onnxadmm.pipeline.checking import read_report
from onnxadmm.pipeline.output import check_output, locked, write_all
from onnxadmm.report.run_files import render_runs
from onnxadmm.report.runs import RunComparison, compare_runs


def compare_folders(runs: Sequence[Path], output: Path | None = None) -> RunComparison:
    """Compare runs by their reports, without running anything.

    Args:
        runs: Output folders of `compress`, or their report.json.
        output: A folder for `comparison.html`, `.md` and `.json`; without it nothing is written.

    Raises:
        InputError: A run has no report, or a damaged one.
        SpecError: No runs, or an output that can't be a folder.
        ResourceError: The output can't be written.
    """
    if output is not None:
        check_output(output, None)
    reports = {
        name: read_report(path / "report.json" if path.is_dir() else path)
        for name, path in _named(runs).items()
    }
    found = compare_runs(reports)
    if output is not None:
        with locked(output):
            write_all(output, render_runs(found))
    return found


def _named(runs: Sequence[Path]) -> dict[str, Path]:
    """Name runs by their folders, and those that share a name by their paths; a run counts once."""
    distinct = list(dict.fromkeys(runs))
    folders = [(p.absolute() if p.is_dir() else p.absolute().parent).name for p in distinct]
    return {
        one_line(folder if folders.count(folder) == 1 else path, 60): path
        for path, folder in zip(distinct, folders, strict=True)
    }
