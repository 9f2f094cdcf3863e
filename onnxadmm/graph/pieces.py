"""Contents of files, a piece at a time: of a model's weights there is never a second copy in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from onnxadmm.errors import ResourceError

Piece = bytes | memoryview | ir.TensorProtocol
Bytes = bytes | memoryview


@dataclass(frozen=True)
class Pieces:
    """What a file holds, in order. It can be gone through as often as one likes.

    Attributes:
        pieces: Bytes, and tensors that stand for their raw data.
    """

    pieces: tuple[Piece, ...]

    def __iter__(self) -> Iterator[Bytes]:
        """Yield the content, a piece at a time."""
        for piece in self.pieces:
            yield piece if isinstance(piece, Bytes) else raw_data(piece)

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return sum(map(_length, self.pieces))

    def update(self, digest: hashlib._Hash) -> None:
        """Add the content to a hash."""
        for piece in self:
            digest.update(piece)


Content = bytes | str | Pieces
"""What a file may receive."""

MAX_PROTOBUF_BYTES = (1 << 31) - 1


def serialise(proto: onnx.ModelProto) -> bytes:
    """Return a protobuf's bytes, always the same for the same content.

    Raises:
        ResourceError: It is larger than the 2 GiB that protobuf allows.
    """
    try:
        return bytes(proto.SerializeToString(deterministic=True))
    except Exception:  # noqa: BLE001  (EncodeError, from a package without types; or MemoryError)
        raise _too_large() from None


def embed(proto: onnx.ModelProto, tensors: Sequence[ir.TensorProtocol]) -> Pieces:
    """Return what a model's file holds once the data of its external initializers lie in it.

    The bytes are those that `serialise` gives for such a protobuf, without that it is made: fields follow each
    other by number, and a message is preceded by its size (protobuf.dev, "Encoding").

    Args:
        proto: The model; its initializers that are external are filled.
        tensors: With what, in the same order.

    Raises:
        ResourceError: It is larger than the 2 GiB that protobuf allows.
    """
    waiting = iter(tensors)
    found = _replaced(
        memoryview(serialise(proto)),
        onnx.ModelProto.GRAPH_FIELD_NUMBER,
        lambda graph: _replaced(
            graph, onnx.GraphProto.INITIALIZER_FIELD_NUMBER, lambda t: _filled(t, waiting)
        ),
    )
    whole = Pieces(tuple(found))
    if whole.size_bytes > MAX_PROTOBUF_BYTES:
        raise _too_large()
    return whole


def _too_large() -> ResourceError:
    return ResourceError(
        "the model doesn't fit into one ONNX file of 2 GiB: too much of it isn't initializers of its main "
        "graph; export it with its weights there"
    )


def _filled(tensor: memoryview, waiting: Iterator[ir.TensorProtocol]) -> list[Piece] | None:
    """Return an external initializer with its data in it; None for another one."""
    before: list[Piece] = []
    after: list[Piece] = []
    external = False
    for number, start, body, end in _fields(tensor):
        if number == onnx.TensorProto.DATA_LOCATION_FIELD_NUMBER:
            external = tensor[body] == onnx.TensorProto.EXTERNAL
        elif number != onnx.TensorProto.EXTERNAL_DATA_FIELD_NUMBER:
            (before if number < onnx.TensorProto.RAW_DATA_FIELD_NUMBER else after).append(
                tensor[start:end]
            )
    if not external:
        return None
    content = next(waiting)
    opening = _opening(onnx.TensorProto.RAW_DATA_FIELD_NUMBER, content.nbytes)
    return [*before, opening, content, *after]


def _replaced(
    message: memoryview, number: int, new: Callable[[memoryview], list[Piece] | None]
) -> list[Piece]:
    """Return a serialised message with the fields of a number exchanged, where `new` gives other content."""
    pieces: list[Piece] = []
    done = 0
    for found, start, body, end in _fields(message):
        content = new(message[body:end]) if found == number else None
        if content is not None:
            size = sum(map(_length, content))
            pieces += [message[done:start], _opening(number, size), *content]
            done = end
    return [*pieces, message[done:]]


_VARINT, _EIGHT_BYTES, _SIZED, _FOUR_BYTES = 0, 1, 2, 5


def _fields(message: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field of a serialised message of ours: its number, where it and its content start, its end."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _varint(message, at)
        body, kind = at, tag & 7
        if kind == _SIZED:
            size, body = _varint(message, at)
            at = body + size
        elif kind == _VARINT:
            _, at = _varint(message, at)
        else:
            at += {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}[kind]
        yield tag >> 3, start, body, at


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a number, seven bits a byte and the lowest first, and where it ends."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004  (the last byte has no top bit)
            return number, at


def _opening(number: int, size: int) -> bytes:
    """Return what precedes a field's content of so many bytes."""
    return _coded(number << 3 | _SIZED) + _coded(size)


def _coded(number: int) -> bytes:
    """Return a number as protobuf writes it; see `_varint`."""
    coded = bytearray()
    while number > 0x7F:  # noqa: PLR2004  (seven bits)
        coded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*coded, number))


def _length(piece: Piece) -> int:
    return len(piece) if isinstance(piece, Bytes) else piece.nbytes


def raw_data(tensor: ir.TensorProtocol) -> memoryview:
    """Return a tensor's bytes, as ONNX stores them; without a copy where it can be done."""
    if tensor.dtype.bitwidth < 8:  # noqa: PLR2004  (packed)
        return memoryview(tensor.tobytes())
    array = np.ascontiguousarray(tensor.numpy())
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return array.reshape(-1).view(np.uint8).data
