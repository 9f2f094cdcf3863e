"""The command line: thin click commands over the stages of onnxadmm."""

from __future__ import annotations

from .commands import main

__all__ = ["main"]
