"""Tensors in one safetensors file, written one at a time: no second copy of all of them is made in memory."""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onnxadmm.errors import ResourceError, one_line
from onnxadmm.graph import TEMPORARY

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8


class TensorFile:
    """The content of a safetensors file, piece by piece."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Lay the file out; the tensors are read when it is written.

        Args:
            tensors: By name, on any device and in any layout.
        """
        # Wide elements first: then each tensor begins at a multiple of its element's size.
        order = sorted(tensors, key=lambda n: (-tensors[n].element_size(), n))
        self.tensors = {n: tensors[n] for n in order}

    def __iter__(self) -> Iterator[Any]:
        """Yield the header, then each tensor's bytes."""
        header: dict[str, Any] = {}
        end = 0
        for name, tensor in self.tensors.items():
            start, end = end, end + tensor.numel() * tensor.element_size()
            header[name] = {
                "dtype": _NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        yield struct.pack("<Q", len(text)) + text
        for tensor in self.tensors.values():
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().data

    def sha256(self) -> str:
        """Return the hash of the file."""
        digest = hashlib.sha256()
        for piece in self:
            digest.update(piece)
        return digest.hexdigest()


def put_on_disk(tensors: Mapping[str, Tensor], folder: Path | None) -> dict[str, Tensor]:
    """Return copies that lie in a file without a name and are read from there when they are needed.

    Args:
        tensors: By name.
        folder: Where there is room; the system's folder for temporary files where it is None.

    Raises:
        ResourceError: The disk refuses, or the system can't map the file.
    """
    from safetensors.torch import load_file

    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=TEMPORARY) as file:
            for piece in TensorFile(tensors):
                file.write(piece)
            file.flush()
            # The mapping outlives the name.
            return load_file(file.name)
    except (OSError, RuntimeError) as e:
        # torch maps the file, and says in a RuntimeError that there is no memory for it.
        reason = one_line(getattr(e, "strerror", None) or e, 120)
        raise ResourceError(
            f"the state that a run goes back to if it diverges: {reason}; free memory, or disk space in the output "
            "folder, or set TMPDIR where nothing is written"
        ) from None
