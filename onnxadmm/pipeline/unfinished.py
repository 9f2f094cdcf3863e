"""Checkpoints of a run that did not end: hours of work that a forgotten `--resume` must not cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxadmm.errors import SpecError, one_line
from onnxadmm.pipeline.receipts import finished_run
from onnxadmm.training import CheckpointStore, Manifest


@dataclass(frozen=True)
class Course:
    """What a run does with checkpoints.

    Attributes:
        resume: Whether it goes on from those in its folder, and refuses those of another run.
        restart: Whether it drops those of a run that was not finished.
        save: Whether it writes any.
    """

    resume: bool = False
    restart: bool = False
    save: bool = True


def stage_folders(folder: Path) -> list[Path]:
    """Return the folders under an output folder that hold the checkpoints of a stage each."""
    found = (folder / "checkpoints").glob("*")
    return sorted(p for p in found if p.is_dir() and not p.is_symlink())


def is_unfinished(folder: Path, belongs: Mapping[str, str]) -> bool:
    """Say whether a run can still go on in this folder, and refuse to start another there.

    The checkpoints of a run whose result lies beside them are no work that could be lost.

    Args:
        folder: The output folder.
        belongs: What checkpoints of the run that wants to start would belong to.

    Returns:
        Whether checkpoints of this very run are there.

    Raises:
        SpecError: Checkpoints of another run are there; says in what it differs and what can be done.
    """
    there = {p.name: CheckpointStore(p, {}).newest() for p in stage_folders(folder)}
    left = {n: found for n, found in there.items() if found is not None}
    if left:
        done = finished_run(folder) or {}
        left = {n: found for n, found in left.items() if not _is_part_of(found, done)}
    other = [f for f, v in belongs.items() for found in left.values() if found.identity.get(f) != v]
    if not other:
        return bool(left)
    at = one_line(", ".join(f"{n} step {found.step}" for n, found in left.items()), 60)
    raise SpecError(
        f"output {one_line(folder, 100)}: holds checkpoints of a run whose {other[0]} was another and which was not "
        f"finished ({at}); choose another folder, --restart drops them and starts anew"
    )


def _is_part_of(found: Manifest, done: Mapping[str, str]) -> bool:
    shared = {f: v for f, v in found.identity.items() if f in done}
    return bool(shared) and all(done[f] == v for f, v in shared.items())
