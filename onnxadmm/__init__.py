"""onnxadmm: make a trained ONNX model smaller and faster, and prove it."""

from onnxadmm._version import __version__

__all__ = ["__version__"]
