"""Samples and labels: read from files, checked whole against the model, prepared batch by batch."""

from __future__ import annotations

from onnxadmm.data.dataset import Dataset, fingerprint
from onnxadmm.data.images import image_inputs
from onnxadmm.data.loading import load_split
from onnxadmm.data.preparing import InputInfo

__all__ = ["Dataset", "InputInfo", "fingerprint", "image_inputs", "load_split"]
