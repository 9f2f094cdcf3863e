"""Tensors in a model's protobuf: where they hide, whether data and shape agree, sparse to dense."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxadmm.errors import ModelError, one_line

# No weight is larger; more is an attack on size arithmetic.
MAX_TENSOR_BYTES = 1 << 40
# Sparse tensors become dense: a few bytes in a file can name any size.
MAX_DENSE_BYTES = 256 << 20

BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    **{
        number: bits
        for name, bits in (("FLOAT8E8M0", 8), ("UINT2", 2), ("INT2", 2))
        # newer than the oldest onnx that we take
        if (number := getattr(TensorProto, name, None)) is not None
    },
}
_TYPED_FIELDS = (
    "float_data",
    "int32_data",
    "string_data",
    "int64_data",
    "double_data",
    "uint64_data",
)
_FIELD_OF: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.COMPLEX64: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.COMPLEX128: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.STRING: "string_data",
}
MAX_RANK = 64
"""Axes of an array of numpy's, and of what torch computes with."""
_PAIRS = {TensorProto.COMPLEX64, TensorProto.COMPLEX128}


def walk(message: Any) -> Iterator[Any]:
    """Yield a protobuf message and every message below it, in every field, used or not.

    A hostile tensor can hide where no runtime looks: a function nobody calls, training info, a second
    field of an attribute.
    """
    stack = [message]
    while stack:
        current = stack.pop()
        yield current
        for field in _message_fields(current.DESCRIPTOR):
            name, repeated = field
            if repeated:
                stack.extend(getattr(current, name))
            elif current.HasField(name):
                stack.append(getattr(current, name))


_FIELDS: dict[str, list[tuple[str, bool]]] = {}


def _message_fields(descriptor: Any) -> list[tuple[str, bool]]:
    if descriptor.full_name not in _FIELDS:
        _FIELDS[descriptor.full_name] = [
            (f.name, f.is_repeated) for f in descriptor.fields if f.message_type is not None
        ]
    return _FIELDS[descriptor.full_name]


def label(tensor: TensorProto) -> str:
    """Return a printable name of a tensor."""
    return repr(one_line(tensor.name, 60)) if tensor.name else "without a name"


def packed_bytes(tensor: TensorProto) -> int:
    """Return how many bytes the tensor's dims and element type need, packed as ONNX stores them.

    Raises:
        ModelError: The dims or the element type make no sense.
    """
    count = element_count(tensor.dims, label(tensor))
    if tensor.data_type not in BITS:
        raise ModelError(
            f"tensor {label(tensor)}: unknown element type {tensor.data_type}; export the model again"
        )
    size = (count * BITS[tensor.data_type] + 7) // 8
    if size > MAX_TENSOR_BYTES:
        raise ModelError(
            f"tensor {label(tensor)}: shape {list(tensor.dims)[:8]} needs {size} bytes, too large a size "
            "for any model; export it again"
        )
    return size


def element_count(dims: Any, name: str) -> int:
    """Return the product of dims.

    Raises:
        ModelError: A dim is negative, or sizes overflow what arrays can address.
    """
    sizes = list(dims[:65])
    if len(sizes) > MAX_RANK or any(d < 0 for d in sizes):
        raise ModelError(
            f"tensor {name}: shape {sizes[:8]} has a negative dim or more than {MAX_RANK}; export it again"
        )
    # Arrays without elements, too, must have strides that fit.
    if math.prod(max(d, 1) for d in sizes) > MAX_TENSOR_BYTES:
        raise ModelError(
            f"tensor {name}: shape {sizes[:8]} is too large; its data can't be in the file"
        )
    return math.prod(sizes)


def check_tensor(tensor: TensorProto) -> None:
    """Check that a tensor holds exactly the data that its dims and type call for.

    Raises:
        ModelError: It doesn't.
    """
    if tensor.HasField("segment"):
        raise ModelError(f"tensor {label(tensor)}: is split in segments; store it in one piece")
    filled = [f for f in _TYPED_FIELDS if len(getattr(tensor, f))]
    # Protobuf copies the bytes whenever they are asked for.
    raw_bytes = len(tensor.raw_data)
    has_raw = raw_bytes > 0
    if filled and not has_raw:
        # Present and empty: some readers would take it for the data.
        tensor.ClearField("raw_data")
    if len(filled) + has_raw > 1:
        raise ModelError(
            f"tensor {label(tensor)}: has data in several fields ({', '.join(filled)}"
            f"{', raw_data' if has_raw else ''}), and readers disagree which counts; keep one"
        )
    if tensor.data_type == TensorProto.STRING:
        need, unit = element_count(tensor.dims, label(tensor)), "strings"
        have = len(tensor.string_data)
        field = "raw_data" if has_raw else (filled or ["string_data"])[0]
    else:
        need, unit = packed_bytes(tensor), "bytes of raw data"
        have, field = raw_bytes, "raw_data"
        if filled:
            field, unit = filled[0], f"entries of {filled[0]}"
            have, need = len(getattr(tensor, field)), _entries(tensor)
    expected = _FIELD_OF.get(tensor.data_type, "int32_data")
    if field not in {expected, "raw_data"} or (expected == "string_data" and has_raw):
        raise ModelError(
            f"tensor {label(tensor)}: its data is in {field}, which doesn't belong to its element type; "
            "export the model again"
        )
    if have != need:
        raise ModelError(
            f"tensor {label(tensor)}: shape {list(tensor.dims)[:8]} needs {need} {unit}, the file has "
            f"{have}: the size is wrong; export the model again"
        )


def _entries(tensor: TensorProto) -> int:
    """Return how many entries a tensor needs in its typed field."""
    count: int = math.prod(tensor.dims)
    if tensor.data_type in _PAIRS:
        return count * 2
    bits = BITS[tensor.data_type]
    # Types below a byte are packed into bytes here too, each byte in an int32.
    return count if bits >= 8 else (count * bits + 7) // 8  # noqa: PLR2004  (bits in a byte)


def dense_bytes(sparse: onnx.SparseTensorProto) -> int:
    """Return the size of a sparse tensor once it is dense, in bytes."""
    bits = BITS.get(sparse.values.data_type, 8)
    return element_count(sparse.dims, label(sparse.values)) * bits // 8


def densify(sparse: onnx.SparseTensorProto) -> TensorProto:
    """Return a sparse tensor as a dense one with raw data, under the name of its values.

    Raises:
        ModelError: Indices lie outside or don't fit the values, or the dense size is above 256 MiB.
    """
    values, indices, dims = sparse.values, sparse.indices, list(sparse.dims)
    name = label(values)
    if values.data_type not in BITS or BITS[values.data_type] < 8:  # noqa: PLR2004  (bits)
        raise ModelError(
            f"sparse tensor {name}: element type {values.data_type} can't be sparse; store it dense"
        )
    size = dense_bytes(sparse)
    if size > MAX_DENSE_BYTES:
        raise ModelError(
            f"sparse tensor {name}: shape {dims[:8]} has a dense size of {size} bytes, above the limit "
            f"of {MAX_DENSE_BYTES}; too large"
        )
    check_tensor(values)
    check_tensor(indices)
    number = math.prod(values.dims)
    if indices.data_type != TensorProto.INT64 or len(values.dims) != 1 or not dims:
        raise ModelError(
            f"sparse tensor {name}: needs one-dimensional values and int64 indices; store it dense"
        )
    count = math.prod(dims)
    flat = _linear(onnx.numpy_helper.to_array(indices), number, dims, name)
    if number and (flat.min() < 0 or flat.max() >= count):
        raise ModelError(
            f"sparse tensor {name}: an index lies outside its shape {dims[:8]}; export it again"
        )
    if len(np.unique(flat)) != number:
        raise ModelError(f"sparse tensor {name}: an index occurs twice; export the model again")
    array = onnx.numpy_helper.to_array(values)
    dense = np.zeros(count, array.dtype)
    dense[flat] = array
    result = TensorProto(name=values.name, data_type=values.data_type, doc_string=values.doc_string)
    result.dims.extend(dims)
    result.raw_data = dense.astype(dense.dtype.newbyteorder("<"), copy=False).tobytes()
    return result


def _linear(indices: np.ndarray, number: int, dims: list[int], name: str) -> np.ndarray:
    """Return indices of shape [nnz] or [nnz, rank] as linear ones; bad coordinates become -1."""
    if indices.shape == (number,):
        return indices
    if indices.shape != (number, len(dims)):
        raise ModelError(
            f"sparse tensor {name}: {number} values, but indices of shape {list(indices.shape)}; "
            "export it again"
        )
    inside = np.asarray(np.all((indices >= 0) & (indices < np.array(dims)), axis=1))
    strides = np.array([math.prod(dims[i + 1 :]) for i in range(len(dims))], np.int64)
    return np.where(inside, (np.where(inside[:, None], indices, 0) * strides).sum(axis=1), -1)
