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

import onnx
import onnx_ir as ir

from onnxadmm.errors import ResourceError, one_line
from onnxadmm.graph.pieces import Content, Pieces, embed, serialise
from onnxadmm.graph.wrapping import Wrapping, rewrap_outputs, wrapping_of

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
    held = _apart(model)
    if not _exceed(held, WHOLE_BYTES if beyond is None else beyond):
        return Parts(ir.to_proto(model), None)
    proto, tensors = _detached(model, held, location)
    pieces = ((t, bytes(-t.nbytes % ALIGNMENT)) for t in tensors)
    return Parts(proto, Pieces(tuple(piece for pair in pieces for piece in pair)))


def _detached(
    model: ir.Model, values: Iterable[ir.Value], location: str
) -> tuple[onnx.ModelProto, list[ir.TensorProtocol]]:
    """Return a protobuf whose tensors of these values refer to a file, and what that file holds, in order.

    The model is unchanged afterwards.
    """
    held = {value: value.const_value for value in values}
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
        return ir.to_proto(model), tensors
    finally:
        for value, tensor in held.items():
            value.const_value = tensor


def _join(model: ir.Model, wrapping: Wrapping | None) -> Pieces:
    """Return the file of a model as one protobuf, with its outputs wrapped so.

    Raises:
        ResourceError: It is larger than 2 GiB.
    """
    proto, tensors = _detached(model, filter(_is_stored_raw, _apart(model)), "weights")
    rewrap_outputs(proto, wrapping)
    return embed(proto, tensors)


def _is_stored_raw(value: ir.Value) -> bool:
    """Whether a tensor has its data as raw bytes; in a protobuf they can also be numbers of a list, and stay it."""
    held = value.const_value
    return not isinstance(held, ir.serde.TensorProtoTensor) or held.raw.HasField("raw_data")


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
    if not _exceed(_apart(model), WHOLE_BYTES):
        whole = _join(model, wrapping_of(model))
        # A small one is a copy, which nothing changes that happens to the model.
        small = whole.size_bytes <= STAGED_BYTES
        return {name: b"".join(whole) if small else whole}
    parts = split(model, name)
    rewrap_outputs(parts.proto, wrapping_of(model))
    assert parts.weights is not None
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
    if not _exceed(_apart(model), WHOLE_BYTES):
        return _join(model, wrapping_of(model)).size_bytes
    parts = split(model, f"model.{'0' * _DIGITS}.data")
    rewrap_outputs(parts.proto, wrapping_of(model))
    return parts.size_bytes


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
    if not isinstance(model, ir.Model):
        return _stage({name: model}, folder) / name
    limit = STAGED_BYTES if mapped else WHOLE_BYTES
    if _exceed(_apart(model), limit):
        return stage_parts(split(model, f"{name}.data", limit), folder, name)
    return _stage({name: _join(model, None)}, folder) / name


def stage_parts(parts: Parts, folder: Path, name: str = "model.onnx") -> Path:
    """Write parts into a temporary folder of ours; return the path of the model.

    Raises:
        ResourceError: There is no room.
    """
    contents: dict[str, bytes | Pieces] = {name: serialise(parts.proto)}
    if parts.weights is not None:
        contents[f"{name}.data"] = parts.weights
    return _stage(contents, folder) / name


def _stage(contents: Mapping[str, bytes | Pieces], folder: Path) -> Path:
    try:
        for name, content in contents.items():
            with (folder / name).open("wb") as file:
                for piece in content if isinstance(content, Pieces) else (content,):
                    file.write(piece)
    except OSError as e:
        size_bytes = sum(
            c.size_bytes if isinstance(c, Pieces) else len(c) for c in contents.values()
        )
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


def _apart(model: ir.Model) -> list[ir.Value]:
    """Return the initializers that may lie beside the protobuf."""
    return [
        v
        for v in model.graph.initializers.values()
        if v.const_value is not None
        and v.const_value.dtype != ir.DataType.STRING
        and v.const_value.nbytes >= PIECE_BYTES
    ]


def _exceed(values: Iterable[ir.Value], limit: int) -> bool:
    return sum(v.const_value.nbytes for v in values if v.const_value is not None) > limit
