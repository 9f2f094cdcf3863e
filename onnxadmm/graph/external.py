"""External data: bringing every tensor's bytes into memory, from inside the model's folder only.

The large initializers of the main graph become arrays, read once and never copied, or lie in a `Store`, out of
the process's own memory; everything else goes into the protobuf.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx import ModelProto, TensorProto

from onnxadmm.errors import ModelError, ResourceError, UnsupportedError, one_line
from onnxadmm.graph.files import ModelFolder, read_into, read_range
from onnxadmm.graph.mapping import MAPPED_BYTES, Source, Store, Stored
from onnxadmm.graph.parts import PIECE_BYTES, WHOLE_BYTES
from onnxadmm.graph.tensors import BITS, check_tensor, label, packed_bytes
from onnxadmm.memory import GIB, available_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Held = np.ndarray[Any, Any] | Stored
"""The content of a large initializer."""
_KEYS = {"location", "offset", "length", "checksum"}
_MAX_DIGITS = 19


def absorb(
    proto: ModelProto, tensors: Iterable[TensorProto], folder: ModelFolder
) -> dict[str, Held]:
    """Read external data into memory, and check every tensor's size. No tensor names a path afterwards.

    All tensors are vetted before the first byte is read.

    Args:
        proto: The model; tensors that aren't returned hold their data in place afterwards.
        tensors: All of its tensors, wherever they are.
        folder: Where side files are.

    Returns:
        Name of an initializer of the main graph -> its content, for the large ones. In the protobuf they stay
        marked as external, without a location.

    Raises:
        ModelError: A tensor's data is missing, outside the folder, or doesn't fit its dims.
        UnsupportedError: So much lies elsewhere than in the main graph's initializers that no protobuf can hold it.
        ResourceError: The data doesn't fit into memory.
    """
    plans = []
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data):
            plans.append((tensor, *_plan(tensor, folder)))
        else:
            check_tensor(tensor)
    # By identity: a subgraph may hold a tensor of the same name. `plans` keeps the messages' objects alive.
    large = {id(t) for t in proto.graph.initializer if _is_apart(t)}
    inside = sum(p[3] for p in plans if id(p[0]) not in large)
    total, free = sum(p[3] for p in plans) + inside, available_bytes()
    if total > free:
        raise ResourceError(
            f"the model's external data needs {total / GIB:.1f} GiB, and {free / GIB:.1f} GiB of memory are "
            "free; use a machine with more"
        )
    if inside > WHOLE_BYTES:
        raise UnsupportedError(
            f"{inside / GIB:.1f} GiB of its external data lie outside the main graph's initializers, where one "
            "protobuf must hold them; above the limit: export it with its weights as initializers"
        )
    held: dict[str, Held] = {}
    store = Store()
    for tensor, *place in plans:
        content = _read(tensor, place, store if id(tensor) in large else None)
        del tensor.external_data[:]
        if isinstance(content, bytes):
            tensor.data_location = TensorProto.DEFAULT
            tensor.raw_data = content
            check_tensor(tensor)
        else:
            held[tensor.name] = content
    return held


def _read(tensor: TensorProto, place: Sequence[int], store: Store | None) -> Held | bytes:
    """Read a tensor's data.

    Args:
        tensor: The tensor.
        place: Descriptor of the file, offset and length in bytes.
        store: Where large ones go; None for bytes.

    Raises:
        ModelError: The file ends too early.
        ResourceError: It can't be read.
    """
    descriptor, offset, length = place
    kind, shape = ir.DataType(tensor.data_type), tuple(tensor.dims)
    try:
        if store is None:
            raw = read_range(descriptor, offset, length)
            if len(raw) == length:
                return raw
        elif length >= MAPPED_BYTES:
            with contextlib.suppress(EOFError):
                return store.add(kind, shape, Source(descriptor, offset, length))
        else:
            content = np.empty(length, np.uint8)
            if read_into(descriptor, offset, content.data) == length:
                return content.view(kind.numpy().newbyteorder("<")).reshape(shape)
    except OSError as e:
        raise ResourceError(
            f"tensor {label(tensor)}: reading external data failed: {e.strerror}"
        ) from None
    raise ModelError(
        f"tensor {label(tensor)}: its external data file shrank while it was read; try again"
    )


def _is_apart(tensor: TensorProto) -> bool:
    """Whether an initializer becomes an array; one of a type below a byte has no plain array."""
    external = tensor.data_location == TensorProto.EXTERNAL
    whole = BITS.get(tensor.data_type, 0) >= 8  # noqa: PLR2004  (bits in a byte)
    return external and whole and packed_bytes(tensor) >= PIECE_BYTES


def _plan(tensor: TensorProto, folder: ModelFolder) -> tuple[int, int, int]:
    """Return descriptor, offset and length (both in bytes) of a tensor's data, all checked."""
    name = label(tensor)
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in entries or entry.key not in _KEYS:
            what = "repeats the" if entry.key in entries else "has an unknown"
            raise ModelError(
                f"tensor {name}: its external data {what} key {one_line(repr(entry.key), 40)}, so that its "
                "location or path is in doubt; export the model again"
            )
        entries[entry.key] = entry.value
    if tensor.data_location != TensorProto.EXTERNAL:
        raise ModelError(
            f"tensor {name}: names an external location, but is not marked external; export it again"
        )
    if tensor.data_type == TensorProto.STRING or tensor.raw_data:
        raise ModelError(
            f"tensor {name}: can't have external data (strings, or data inside too); export it again"
        )
    need = packed_bytes(tensor)
    offset = _number(entries, "offset", name) or 0
    length = _number(entries, "length", name)
    descriptor, size = folder.open(entries.get("location", ""), name)
    if length is not None and length != need:
        raise ModelError(
            f"tensor {name}: external data length is {length} bytes, its shape needs {need}; "
            "export the model again"
        )
    if offset + need > size:
        raise ModelError(
            f"tensor {name}: external data ends at byte {offset + need}, its file has a size of {size}: "
            "truncated? download it again"
        )
    expected = entries.get("checksum")
    if expected is not None and folder.sha1(descriptor, size) != expected.strip().lower():
        raise ModelError(
            f"tensor {name}: the checksum of its external data file is wrong: damaged or exchanged; "
            "download it again"
        )
    return descriptor, offset, need


def _number(entries: dict[str, str], key: str, name: str) -> int | None:
    text = entries.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise ModelError(
            f"tensor {name}: external data {key} is {one_line(repr(text), 30)}, not a size in bytes; "
            "export the model again"
        )
    return int(text)
