"""NumPy's .npy format, the part of it that holds plain numbers.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. The header is parsed here: NumPy's
own parser reads as many bytes as the length field says before it checks them.
"""

from __future__ import annotations

import ast
import struct
import warnings
from contextlib import ExitStack
from io import BufferedReader, FileIO
from typing import IO, Any, NamedTuple

import numpy as np

from onnxadmm.data.stored import (
    MAX_RANK,
    StoredArray,
    damage_named,
    file_bytes,
    require_size,
)
from onnxadmm.errors import DataError, one_line

MAGIC = b"\x93NUMPY"
# NumPy pads headers to 64 bytes; 32 axes take less than a kilobyte.
MAX_HEADER_BYTES = 10_000
MAX_AXIS = 1 << 62
_PLAIN = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))
_REFUSED = {
    "O": "object (Python pickles, which would run code)",
    "c": "complex",
    "S": "string",
    "a": "string",
    "U": "string",
    "V": "structured or void",
    "M": "datetime",
    "m": "timedelta",
    "f": "extended float",
}
_FOREIGN = {
    b"PK": "a zip archive",
    b"\x1f\x8b": "a gzip file",
    b"\x80": "a Python pickle",
    b"\x89HDF": "an HDF5 file",
}


class Header(NamedTuple):
    """What the header of a .npy file declares; `size_bytes` is its own length."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    size_bytes: int


def open_npy(raw: FileIO, title: str, file: str, stack: ExitStack) -> StoredArray:
    """Read the header of a .npy file and check the file's size against it.

    Args:
        raw: The open file.
        title: The file, for messages.
        file: Its base name.
        stack: Closes what is opened here.

    Raises:
        DataError: It is no .npy file, doesn't hold plain numbers, or has another size.
    """
    held = file_bytes(raw)
    stream = stack.enter_context(BufferedReader(raw))
    return stored_npy(stream, held, title, file)


def stored_npy(stream: IO[bytes], held_bytes: int, title: str, file: str) -> StoredArray:
    """Read a header from a stream of `held_bytes` in all, and check the size against it.

    Raises:
        DataError: As `open_npy`.
    """
    header = read_header(stream, title)
    stored = StoredArray(title, file, header.dtype, header.shape, header.fortran, stream)
    require_size(title, stored.nbytes, held_bytes - header.size_bytes, header.shape)
    return stored


def read_header(stream: IO[bytes], title: str) -> Header:
    """Read the header; the stream then stands at the first value.

    Raises:
        DataError: It is damaged, too long, or declares something else than plain numbers.
    """
    with damage_named(title):
        start = stream.read(8)
        if start[:6] != MAGIC:
            what = next((w for m, w in _FOREIGN.items() if start.startswith(m)), "another format")
            raise DataError(
                f"{title}: invalid, not a .npy array but {what}; write it with numpy.save or savez"
            )
        version = tuple(start[6:8])
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise DataError(
                f"{title}: .npy header version {'.'.join(map(str, version))} is unknown; write it again"
            )
        form = "<H" if version == (1, 0) else "<I"
        field = stream.read(struct.calcsize(form))
        if len(field) < struct.calcsize(form):
            raise DataError(f"{title}: truncated inside the header; write it again")
        (length,) = struct.unpack(form, field)
        if length > MAX_HEADER_BYTES:
            raise DataError(
                f"{title}: the .npy header is said to be {length} bytes long, at most "
                f"{MAX_HEADER_BYTES} is valid; the file is corrupt: write it again"
            )
        text = stream.read(length)
    if len(text) < length:
        raise DataError(f"{title}: truncated inside the header; write it again")
    dtype, shape, fortran = _parse(text, title)
    return Header(dtype, shape, fortran, 8 + len(field) + length)


def _parse(text: bytes, title: str) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    try:
        # the parser would warn about odd escapes, and a warning is a second line on stderr
        with warnings.catch_warnings(action="ignore"):
            fields = ast.literal_eval(text.decode("utf-8").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise DataError(f"{title}: the .npy header is invalid or corrupt; write it again")
    shape, fortran = fields["shape"], fields["fortran_order"]
    if (
        not isinstance(shape, tuple)
        or len(shape) > MAX_RANK
        or not all(type(n) is int and 0 <= n <= MAX_AXIS for n in shape)
        or not isinstance(fortran, bool)
    ):
        raise DataError(
            f"{title}: the .npy header is invalid: {one_line(text.decode(), 80)}; write it again"
        )
    # one axis has one order; the flag then means nothing
    return _plain_dtype(fields["descr"], title), shape, fortran and len(shape) > 1


def _plain_dtype(descr: object, title: str) -> np.dtype[Any]:
    """Return the dtype of plain numbers that `descr` names; never lets NumPy interpret it first."""
    text = descr if isinstance(descr, str) else ""
    bare = text[1:] if text[:1] in ("<", ">", "=", "|") else text
    if bare in _PLAIN:
        return np.dtype(text)
    kind = "structured" if not text or "," in text else _REFUSED.get(bare[:1], "unknown")
    shown = one_line(descr, 40)
    raise DataError(
        f"{title}: dtype {shown} is {kind}; only plain bool, int and float arrays are read: convert it"
    )
