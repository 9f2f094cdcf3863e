"""Runs that are asked to stop."""

from __future__ import annotations

import contextlib

from onnxadmm.errors import Interrupted


class StopAfter:
    """Raises `Interrupted` at the given step of training, and whenever it is asked later."""

    def __init__(self, steps, signal=2):
        self.left, self.signal, self.training = steps, signal, False

    @contextlib.contextmanager
    def deferred(self):
        self.training = True
        try:
            yield
        finally:
            self.training = False

    def check(self):
        self.left -= self.training
        if self.left <= 0:
            raise Interrupted("stopped by the test", self.signal)
