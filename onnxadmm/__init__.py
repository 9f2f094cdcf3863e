"""onnxadmm: make a trained ONNX model smaller and faster, and prove it.

    result = onnxadmm.compress("model.onnx", "spec.yaml")
    result.save("compressed")

Names are loaded when they are first used: importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxadmm._version import __version__

if TYPE_CHECKING:
    from onnxadmm.pipeline import Inspection, Result, compress, inspect

__all__ = ["Inspection", "Result", "__version__", "compress", "inspect"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from onnxadmm import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'onnxadmm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
