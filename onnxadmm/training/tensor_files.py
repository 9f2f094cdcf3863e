"""Tensors in one safetensors file, written one at a time: no second copy of all of them is made in memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in a file: its type, its shape, and its first byte and the one after its last."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class TensorFile:
    """The content of a safetensors file, piece by piece."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Lay the file out; the tensors are read when it is written.

        Args:
            tensors: By name, on any device and in any layout. Each is asked for anew whenever it is written.
        """
        self._tensors = tensors
        self.places: dict[str, Place] = {}
        """Where each tensor lies, counted from the end of the header."""
        kinds = {n: (t.dtype, tuple(t.shape), t.element_size()) for n, t in tensors.items()}
        end = 0
        # Wide elements first: then each tensor begins at a multiple of its element's size.
        for name in sorted(kinds, key=lambda n: (-kinds[n][2], n)):
            dtype, shape, width = kinds[name]
            start, end = end, end + math.prod(shape) * width
            self.places[name] = Place(dtype, shape, start, end)

    def header(self) -> bytes:
        """Return what stands before the tensors."""
        entries = {
            n: {"dtype": _NAMES[p.dtype], "shape": p.shape, "data_offsets": [p.start, p.end]}
            for n, p in self.places.items()
        }
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        return struct.pack("<Q", len(text)) + text

    def __iter__(self) -> Iterator[Any]:
        """Yield the header, then each tensor's bytes."""
        yield self.header()
        for name in self.places:
            flat = self._tensors[name].detach().cpu().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().data

    def sha256(self) -> str:
        """Return the hash of the file."""
        digest = hashlib.sha256()
        for piece in self:
            digest.update(piece)
        return digest.hexdigest()


class Prefixed(Mapping[str, Tensor]):
    """Tensors under longer names."""

    def __init__(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        """Put the prefix before each name."""
        self._prefix, self._tensors = prefix, tensors

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor.

        Raises:
            KeyError: There is none of this name.
        """
        if not name.startswith(self._prefix):
            raise KeyError(name)
        return self._tensors[name.removeprefix(self._prefix)]

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return (self._prefix + n for n in self._tensors)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._tensors)


class PutAside(Mapping[str, Tensor]):
    """Tensors in a file without a name; each is read whenever it is asked for.

    Mapped in one piece the file may be larger than the addresses that a limit of memory leaves, though it takes none;
    mapped one by one each takes a descriptor.
    """

    def __init__(self, path: str, content: TensorFile) -> None:
        """Open a file, which may lose its name afterwards.

        Args:
            path: Where it is.
            content: What was written into it.
        """
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._places, self._begin = content.places, len(content.header())

    def __getitem__(self, name: str) -> Tensor:
        """Read a tensor.

        Raises:
            KeyError: There is none of this name.
            ResourceError: The disk fails.
        """
        place = self._places[name]
        tensor = torch.empty(place.shape, dtype=place.dtype)
        rest = tensor.reshape(-1).view(torch.uint8).numpy().data
        at = self._begin + place.start
        while rest:
            try:
                count = os.preadv(self._file, [rest], at)
            except OSError as e:
                raise _refused(e) from None
            if not count:
                raise _refused(OSError("its file has become shorter"))
            rest, at = rest[count:], at + count
        return tensor

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._places)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._places)


def put_on_disk(tensors: Mapping[str, Tensor], folder: Path | None) -> PutAside:
    """Return copies that lie in a file without a name and are read from there when they are needed.

    Args:
        tensors: By name.
        folder: Where there is room; the system's folder for temporary files where it is None.

    Raises:
        ResourceError: The disk refuses.
    """
    content = TensorFile(tensors)
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=TEMPORARY) as file:
            for piece in content:
                file.write(piece)
            file.flush()
            return PutAside(file.name, content)
    except OSError as e:
        raise _refused(e) from None


def _refused(e: OSError) -> ResourceError:
    reason = one_line(e.strerror or e, 120)
    return ResourceError(
        f"the state that a run goes back to if it diverges: {reason}; free memory, or disk space in the output "
        "folder, or set TMPDIR where nothing is written"
    )
