"""Changing the content of the tensors that a graph holds, wherever it holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.graph.walking import constant_of

LAZY_BYTES = 1 << 24
"""Larger tensors are computed whenever somebody asks for them, instead of being kept."""


def compute_constant(value: ir.Value, function: Callable[[], np.ndarray[Any, Any]]) -> None:
    """Let an initializer or a Constant node's output hold what a function returns, in its shape and dtype.

    A large tensor isn't kept: the function is called whenever it is asked for, so that a masked copy of a
    model takes no memory beside it.

    Args:
        value: An initializer, or the output of a Constant node.
        function: Returns the content, the same at each call.
    """
    before = constant_of(value)
    if before is None or before.nbytes <= LAZY_BYTES:
        set_constant(value, function())
        return
    dtype = ir.DataType.from_numpy(before.dtype)

    def tensor() -> ir.Tensor[Any]:
        return ir.Tensor(np.asarray(function(), order="C"), dtype=dtype)

    _hold(value, ir.LazyTensor(tensor, dtype, ir.Shape(before.shape), name=value.name))


def set_constant(value: ir.Value, content: np.ndarray[Any, Any]) -> None:
    """Let an initializer or a Constant node's output hold `content`; name, place, doc string and metadata stay.

    Args:
        value: An initializer, or the output of a Constant node.
        content: The new content, of any shape; its dtype becomes the tensor's.
    """
    # Unlike ascontiguousarray this leaves a scalar a scalar.
    _hold(value, ir.tensor(np.asarray(content, order="C"), name=value.name))


def _hold(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    node, before = value.producer(), value.const_value
    if before is not None:
        tensor.doc_string = before.doc_string
        tensor.metadata_props.update(before.metadata_props)
    if node is not None:
        if node.op_type != "Constant":
            raise ValueError(f"{value.name!r} is computed by {node.op_type}, not held by the graph")
        node.attributes.clear()
        node.attributes["value"] = ir.AttrTensor("value", tensor)
    value.const_value = tensor
    value.shape = ir.Shape(tensor.shape.numpy())
    # A new type object: a clone shares the old one with its original.
    value.type = ir.TensorType(tensor.dtype)
