"""Messages to and from the processes that hold sessions: plain data over a pipe, never code.

A frame is the length of a header (8 bytes, little endian), the header (JSON), and then an .npy file
for every array that the header's `arrays` announces as `[name, kind, size_bytes]`. A list of arrays (a
sequence) is announced as `[name, "list", [...]]`, in the same way.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LENGTH = struct.Struct("<Q")

Arrays = dict[str, Any]
"""Arrays by name, or lists of them."""


@dataclass(frozen=True, slots=True)
class Message:
    """One frame: a few named values, and named arrays."""

    values: dict[str, Any]
    arrays: Arrays = field(default_factory=dict)


def encode(values: Mapping[str, Any], arrays: Mapping[str, Any]) -> bytes:
    """Return the frame.

    Raises:
        ValueError: An array holds Python objects other than text, or is none.
    """
    bodies: list[bytes] = []
    index = [[name, *_lay(array, bodies)] for name, array in arrays.items()]
    header = json.dumps({"values": dict(values), "arrays": index}).encode()
    return b"".join([LENGTH.pack(len(header)), header, *bodies])


def _lay(value: Any, bodies: list[bytes]) -> list[Any]:
    """Append what a value needs to the bodies, and return how it is announced."""
    if value is None:
        return ["none", 0]
    if isinstance(value, list):
        return ["list", [_lay(v, bodies) for v in value]]
    array = np.asarray(value)
    kind = "plain"
    if array.dtype == np.object_:
        # Text that came as objects would need pickle; as fixed-width text it is plain data.
        if not all(isinstance(v, str) for v in array.ravel()):
            raise ValueError("an array of Python objects that aren't text")
        array, kind = array.astype(np.str_), "text"
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    bodies.append(buffer.getvalue())
    return [kind, len(bodies[-1])]


def decode(read: Callable[[int], bytes]) -> Message:
    """Take one frame from `read`, which returns exactly as many bytes as it is asked for.

    Raises:
        ValueError: The bytes are no frame.
    """
    (length,) = LENGTH.unpack(read(LENGTH.size))
    header = json.loads(read(length))
    return Message(header["values"], {n: _take(kind, s, read) for n, kind, s in header["arrays"]})


def _take(kind: str, size: Any, read: Callable[[int], bytes]) -> Any:
    if kind == "none":
        return None
    if kind == "list":
        return [_take(k, s, read) for k, s in size]
    array = np.lib.format.read_array(io.BytesIO(read(size)), allow_pickle=False)
    return array.astype(np.object_) if kind == "text" else array
