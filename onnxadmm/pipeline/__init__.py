"""The whole flow from a model and a spec to a proven, measured result.

Names are loaded when they are first used: inspecting a model needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxadmm.pipeline.flow import Result, compress
    from onnxadmm.pipeline.inspection import Inspection, inspect

__all__ = ["Inspection", "Result", "compress", "inspect"]

_HOMES = {"Inspection": "inspection", "inspect": "inspection", "Result": "flow", "compress": "flow"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"onnxadmm.pipeline.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'onnxadmm.pipeline' has no attribute {name!r}")
