"""Messages between the benchmark and its workers: plain data over a pipe, never code.

A frame is the length of a header (8 bytes, little endian), the header (JSON), and then an .npy file
for every array that the header's `arrays` announces as `[name, size_bytes]`.
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

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True)
class Message:
    """One frame: a few named values, and named arrays."""

    values: dict[str, Any]
    arrays: Arrays = field(default_factory=dict)


def encode(values: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """Return the frame.

    Raises:
        ValueError: An array holds Python objects other than text.
    """
    bodies: list[bytes] = []
    index: list[tuple[str, int]] = []
    for name, array in arrays.items():
        # Text that came as objects would need pickle; as fixed-width text it is plain data.
        plain = array.astype(np.str_) if array.dtype == np.object_ else array
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.asarray(plain), allow_pickle=False)
        bodies.append(buffer.getvalue())
        index.append((name, len(bodies[-1])))
    header = json.dumps({"values": dict(values), "arrays": index}).encode()
    return b"".join([LENGTH.pack(len(header)), header, *bodies])


def decode(read: Callable[[int], bytes]) -> Message:
    """Take one frame from `read`, which returns exactly as many bytes as it is asked for.

    Raises:
        ValueError: The bytes are no frame.
    """
    (length,) = LENGTH.unpack(read(LENGTH.size))
    header = json.loads(read(length))
    arrays = {
        name: np.lib.format.read_array(io.BytesIO(read(size)), allow_pickle=False)
        for name, size in header["arrays"]
    }
    return Message(header["values"], arrays)
