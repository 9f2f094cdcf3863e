"""Runs that are asked to stop."""

from __future__ import annotations

import contextlib

from onnxadmm.errors import Interrupted


class StopAfter:
    """Raises `Interrupted` at the given step, and at each later one."""

    def __init__(self, steps, signal=2):
        self.left, self.signal = steps, signal

    def deferred(self):
        return contextlib.nullcontext()

    def check(self):
        self.left -= 1
        if self.left <= 0:
            raise Interrupted("stopped by the test", self.signal)
