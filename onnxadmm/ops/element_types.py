"""Element types in torch: ONNX's on one side, torch's on the other.

Integers of 2 and 4 bits and floats of 4 have no tensors in torch that compute: they live in those of 8 bits,
with the same values. Strings have none at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import UnsupportedError

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]

_NAMES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.DOUBLE: "float64",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.FLOAT8E4M3FN: "float8_e4m3fn",
    ir.DataType.FLOAT8E4M3FNUZ: "float8_e4m3fnuz",
    ir.DataType.FLOAT8E5M2: "float8_e5m2",
    ir.DataType.FLOAT8E5M2FNUZ: "float8_e5m2fnuz",
    ir.DataType.FLOAT8E8M0: "float8_e8m0fnu",
    ir.DataType.FLOAT4E2M1: "float8_e4m3fn",
    ir.DataType.COMPLEX64: "complex64",
    ir.DataType.COMPLEX128: "complex128",
    ir.DataType.BOOL: "bool",
    ir.DataType.INT2: "int8",
    ir.DataType.UINT2: "uint8",
    ir.DataType.INT4: "int8",
    ir.DataType.UINT4: "uint8",
    **{
        ir.DataType[f"{sign}INT{bits}".upper()]: f"{sign}int{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
FLOAT8 = {
    ir.DataType.FLOAT8E4M3FN,
    ir.DataType.FLOAT8E4M3FNUZ,
    ir.DataType.FLOAT8E5M2,
    ir.DataType.FLOAT8E5M2FNUZ,
}
"""Floats of a byte with a sign."""
UNSHOWN = frozenset(
    k
    for k in ir.DataType
    if k.name.startswith(("FLOAT8", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2"))
)
"""Types of a byte or less that numpy itself lacks."""
# numpy has these from a package of extensions; torch reads them as bytes.
_BY_BYTES = {
    "bfloat16": "int16",
    "float8_e4m3fn": "uint8",
    "float8_e4m3fnuz": "uint8",
    "float8_e5m2": "uint8",
    "float8_e5m2fnuz": "uint8",
    "float8_e8m0fnu": "uint8",
}
CARRIED = {
    "int2": "int8",
    "int4": "int8",
    "uint2": "uint8",
    "uint4": "uint8",
    "float4_e2m1fn": "float8_e4m3fn",
}
"""numpy names of the types that live in a wider one of torch, and that one's."""


def torch_type(kind: ir.DataType) -> torch.dtype:
    """Return the torch type that holds an element type.

    Raises:
        UnsupportedError: torch has none (strings).
    """
    import torch

    if kind not in _NAMES:
        raise UnsupportedError(
            f"element type {kind.name.lower()} has no tensors in torch; compress without training"
        )
    found: torch.dtype = getattr(torch, _NAMES[kind])
    return found


def kind_of(dtype_name: str) -> ir.DataType:
    """Return the element type of a numpy name, `object` being a string's."""
    if dtype_name == "object":
        return ir.DataType.STRING
    return ir.DataType.from_numpy(numpy_type(dtype_name))


def to_torch(array: Array, *, own: bool = False) -> torch.Tensor:
    """Return a tensor of an array's content, of the same values; the memory is the tensor's own.

    Args:
        array: The array.
        own: Whether nobody else holds the array's memory, so that the tensor may have it.

    Raises:
        UnsupportedError: torch has no such element type.
    """
    import torch

    name = array.dtype.name
    if name in CARRIED:
        array = array.astype(numpy_type(CARRIED[name]))
        name = array.dtype.name
    if name in _BY_BYTES:
        plain = np.array(array, order="C").view(_BY_BYTES[name])
        return torch.from_numpy(plain).view(getattr(torch, name))
    if array.dtype.kind not in "fiubc":
        raise UnsupportedError(
            f"element type {name} has no tensors in torch; compress without training"
        )
    order = array.dtype.newbyteorder("=")
    return torch.from_numpy(
        np.require(array, order, ["C", "W"]) if own else np.array(array, order, order="C")
    )


def from_torch(tensor: torch.Tensor) -> Array:
    """Return an array of a tensor's content, of the same type."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    name = str(tensor.dtype).removeprefix("torch.")
    if name in _BY_BYTES:
        raw = tensor.view(getattr(torch, _BY_BYTES[name])).numpy()
        found: Array = raw.view(numpy_type(name))
        return found
    plain: Array = tensor.numpy()
    return plain


def numpy_type(name: str) -> np.dtype[Any]:
    """Return the numpy type of a name, those of 16, 8 and fewer bits that ml_dtypes adds included."""
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, name))
