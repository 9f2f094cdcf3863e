"""Runs of several processes, as `accelerate launch` and torchrun start them: all train, the main one does the rest."""

from __future__ import annotations

import os


def is_worker() -> bool:
    """Whether this process only helps another to train: it holds no output folder, and says nothing."""
    try:
        return int(os.environ.get("WORLD_SIZE", "1")) > 1 and int(os.environ.get("RANK", "0")) > 0
    except ValueError:
        return False


def leave_the_rest_to_main() -> None:
    """End a worker once training is over: what follows is measured, and must not be disturbed.

    Raises:
        SystemExit: This process is a worker.
    """
    if is_worker():
        raise SystemExit(0)
