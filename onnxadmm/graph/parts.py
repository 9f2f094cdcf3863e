"""A model as files: one protobuf, or where that can't hold the weights, one with a file of weights beside it.

Nothing here copies the weights: they are handed on piece by piece, as they lie in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnxadmm.errors import ResourceError, one_line
from onnxadmm.graph.wrapping import rewrap_outputs, wrapping_of

WHOLE_BYTES = 1 << 30
"""Weights of more bytes lie beside the protobuf, which ends at 2 GiB."""
PIECE_BYTES = 1 << 16
"""Smaller tensors stay in the protobuf."""
STAGED_BYTES = 1 << 26
"""As `WHOLE_BYTES`, for files that only ONNX Runtime reads here."""
_DIGITS = 12
ALIGNMENT = 4096
"""Of each tensor's offset: runtimes map whole pages."""


@dataclass(frozen=True)
class Pieces:
    """What a file of weights holds, in order: each tensor, and zeros up to the next multiple of `ALIGNMENT`.

    Attributes:
        tensors: The tensors.
        size_bytes: Size of the file.
    """

    tensors: tuple[ir.TensorProtocol, ...]
    size_bytes: int

    def __iter__(self) -> Iterator[memoryview]:
        """Yield the content, a tensor at a time."""
        for tensor in self.tensors:
            content = _raw(tensor)
            yield content
            yield memoryview(bytes(-len(content) % ALIGNMENT))

    def update(self, digest: hashlib._Hash) -> None:
        """Add the content to a hash."""
        for piece in self:
            digest.update(piece)


Content = bytes | str | Pieces
"""What a file may receive."""


@dataclass(frozen=True)
class Parts:
    """A model that is ready to be written.

    Attributes:
        proto: The protobuf; whole, or with tensors that refer to `location`.
        weights: What they refer to; None where the protobuf is whole.
    """

    proto: onnx.ModelProto
    weights: Pieces | None

    @property
    def size_bytes(self) -> int:
        """Size of all files, in bytes."""
        beside = 0 if self.weights is None else self.weights.size_bytes
        return int(self.proto.ByteSize()) + beside


def split(model: ir.Model, location: str, beyond: int | None = None) -> Parts:
    """Return a model as parts.

    Args:
        model: The model; it is unchanged afterwards.
        location: Name of the file of weights, where there has to be one.
        beyond: Weights of more bytes, all together, lie beside the protobuf; by default `WHOLE_BYTES`.
    """
    held = {value: value.const_value for value in _apart(model)}
    if not _exceed(held.values(), WHOLE_BYTES if beyond is None else beyond):
        return Parts(ir.to_proto(model), None)
    tensors: list[ir.TensorProtocol] = []
    offset = 0
    try:
        for value, tensor in held.items():
            assert tensor is not None
            value.const_value = ir.ExternalTensor(
                location,
                offset,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=tensor.name or value.name or "",
                doc_string=tensor.doc_string,
                metadata_props=dict(tensor.metadata_props),
            )
            tensors.append(tensor)
            offset += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        return Parts(ir.to_proto(model), Pieces(tuple(tensors), offset))
    finally:
        for value, tensor in held.items():
            value.const_value = tensor


def split_mapped(model: ir.Model, name: str) -> Parts:
    """Return a model as parts for ONNX Runtime to map, in files of ours that are called so."""
    return split(model, f"{name}.data", STAGED_BYTES)


def model_contents(model: ir.Model, name: str = "model.onnx") -> dict[str, Content]:
    """Return the files that a model is written to, the model itself last: name -> content.

    A file of weights is named by its content: a model and its weights, written one after the other, never
    belong to different results.

    Raises:
        ResourceError: What stays in the protobuf is larger than 2 GiB.
    """
    parts = split(model, name)
    rewrap_outputs(parts.proto, wrapping_of(model))
    if parts.weights is None:
        return {name: serialise(parts.proto)}
    digest = hashlib.sha256()
    parts.weights.update(digest)
    beside = f"{Path(name).stem}.{digest.hexdigest()[:_DIGITS]}.data"
    for tensor in parts.proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = beside
    return {beside: parts.weights, name: serialise(parts.proto)}


def model_digest(model: ir.Model) -> str:
    """Return the SHA-256 of a model's content."""
    parts = split(model, "weights", beyond=0)
    rewrap_outputs(parts.proto, wrapping_of(model))
    digest = hashlib.sha256(serialise(parts.proto))
    if parts.weights is not None:
        parts.weights.update(digest)
    return digest.hexdigest()


def model_size(model: ir.Model) -> int:
    """Return how many bytes a model's files have, without making them."""
    if _exceed((v.const_value for v in _apart(model)), WHOLE_BYTES):
        whole = split(model, f"model.{'0' * _DIGITS}.data")
        rewrap_outputs(whole.proto, wrapping_of(model))
        return whole.size_bytes
    parts = split(model, "weights", beyond=0)
    rewrap_outputs(parts.proto, wrapping_of(model))
    # What the protobuf would have with the weights in it: each message is preceded by its size.
    graph = parts.proto.graph
    before = graph.ByteSize()
    size = parts.proto.ByteSize() - before - _varint_bytes(before)
    after = before
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            length = next(int(e.value) for e in tensor.external_data if e.key == "length")
            had = tensor.ByteSize()
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            has = tensor.ByteSize() + 1 + _varint_bytes(length) + length
            after += has + _varint_bytes(has) - had - _varint_bytes(had)
    return int(size + after + _varint_bytes(after))


def _varint_bytes(number: int) -> int:
    """Return how many bytes protobuf takes for a size."""
    return max(1, -(-number.bit_length() // 7))


def stage_model(
    model: bytes | ir.Model, folder: Path, name: str = "model.onnx", *, mapped: bool = False
) -> Path:
    """Write a model for ONNX Runtime into a temporary folder of ours; return its path.

    Args:
        model: The model.
        folder: Where to.
        name: Of its file.
        mapped: Let weights of more than `STAGED_BYTES` lie beside it: ONNX Runtime maps them instead of copying
            them.

    Raises:
        ResourceError: There is no room.
    """
    if isinstance(model, ir.Model):
        return stage_parts(
            split_mapped(model, name) if mapped else split(model, f"{name}.data"), folder, name
        )
    return _stage({name: model}, folder, len(model)) / name


def stage_parts(parts: Parts, folder: Path, name: str = "model.onnx") -> Path:
    """Write parts into a temporary folder of ours; return the path of the model.

    Raises:
        ResourceError: There is no room.
    """
    contents: dict[str, bytes | Pieces] = {name: serialise(parts.proto)}
    if parts.weights is not None:
        contents[f"{name}.data"] = parts.weights
    return _stage(contents, folder, parts.size_bytes) / name


def _stage(contents: Mapping[str, bytes | Pieces], folder: Path, size_bytes: int) -> Path:
    try:
        for name, content in contents.items():
            with (folder / name).open("wb") as file:
                for piece in content if isinstance(content, Pieces) else (content,):
                    file.write(piece)
    except OSError as e:
        raise ResourceError(
            f"a temporary copy of {size_bytes} bytes in {one_line(folder.parent, 80)}: {e.strerror}; free "
            "space or set TMPDIR"
        ) from None
    return folder


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that nobody else may enter; it goes with all that is in it.

    Raises:
        ResourceError: It can't be made.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix="onnxadmm-", ignore_cleanup_errors=True)
    except OSError as e:
        raise ResourceError(f"a temporary folder: {e.strerror}; free space or set TMPDIR") from None
    with made as folder:
        yield Path(folder)


def serialise(proto: onnx.ModelProto) -> bytes:
    """Return a protobuf's bytes, always the same for the same content.

    Raises:
        ResourceError: It is larger than the 2 GiB that protobuf allows.
    """
    try:
        return bytes(proto.SerializeToString(deterministic=True))
    except Exception:  # noqa: BLE001  (EncodeError, from a package without types; or MemoryError)
        raise ResourceError(
            "the model doesn't fit into one ONNX file of 2 GiB: too much of it isn't initializers of its main "
            "graph; export it with its weights there"
        ) from None


def _apart(model: ir.Model) -> list[ir.Value]:
    """Return the initializers that may lie beside the protobuf."""
    return [
        v
        for v in model.graph.initializers.values()
        if v.const_value is not None
        and v.const_value.dtype != ir.DataType.STRING
        and v.const_value.nbytes >= PIECE_BYTES
    ]


def _exceed(tensors: Iterable[ir.TensorProtocol | None], limit: int) -> bool:
    return sum(t.nbytes for t in tensors if t is not None) > limit


def _raw(tensor: ir.TensorProtocol) -> memoryview:
    """Return a tensor's bytes, as ONNX stores them; without a copy where it can be done."""
    if tensor.dtype.bitwidth < 8:  # noqa: PLR2004  (packed)
        return memoryview(tensor.tobytes())
    array = np.ascontiguousarray(tensor.numpy())
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return array.reshape(-1).view(np.uint8).data
