"""External data: bringing every tensor's bytes into memory, from inside the model's folder only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from onnxadmm.errors import ModelError, ResourceError, one_line
from onnxadmm.graph.files import ModelFolder, read_range
from onnxadmm.graph.tensors import check_tensor, label, packed_bytes
from onnxadmm.memory import GIB, available_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

_KEYS = {"location", "offset", "length", "checksum"}
_MAX_DIGITS = 19


def absorb(tensors: Iterable[TensorProto], folder: ModelFolder) -> None:
    """Replace external data by bytes in memory, in place, and check every tensor's size.

    After this no tensor holds a path. All tensors are vetted before the first byte is read.

    Raises:
        ModelError: A tensor's data is missing, outside the folder, or doesn't fit its dims.
        ResourceError: The data doesn't fit into memory.
    """
    plans = []
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data):
            plans.append((tensor, *_plan(tensor, folder)))
        else:
            check_tensor(tensor)
    total, free = sum(p[3] for p in plans), available_bytes()
    # What is read lives as protobuf, and once more while it is serialised for a runtime.
    if total * 2 > free:
        raise ResourceError(
            f"the model's external data has {total / GIB:.1f} GiB, and {free / GIB:.1f} GiB of memory "
            "are free; use a machine with more"
        )
    for tensor, descriptor, offset, length in plans:
        try:
            content = read_range(descriptor, offset, length)
        except OSError as e:
            raise ResourceError(
                f"tensor {label(tensor)}: reading external data failed: {e.strerror}"
            ) from None
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT
        tensor.raw_data = content
        # Also when the file shrank since it was measured.
        check_tensor(tensor)


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
