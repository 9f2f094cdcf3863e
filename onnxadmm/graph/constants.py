"""Changing the content of the tensors that a graph holds, wherever it holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


def set_constant(value: ir.Value, content: np.ndarray[Any, Any]) -> None:
    """Let an initializer or a Constant node's output hold `content`; name, place, doc string and metadata stay.

    Args:
        value: An initializer, or the output of a Constant node.
        content: The new content, of any shape; its dtype becomes the tensor's.
    """
    # Unlike ascontiguousarray this leaves a scalar a scalar.
    tensor = ir.tensor(np.asarray(content, order="C"), name=value.name)
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
    value.shape = ir.Shape(content.shape)
    # A new type object: a clone shares the old one with its original.
    value.type = ir.TensorType(tensor.dtype)
