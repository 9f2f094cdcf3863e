"""Operators without a builder of ours, built by onnx2torch's converter for them where its registry has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnx_ir as ir
from torch import nn

from onnxadmm.errors import UnsupportedError, one_line
from onnxadmm.ops import describe


def delegate(node: ir.Node, model: onnx.ModelProto) -> tuple[nn.Module, list[str]] | None:
    """Return the module that onnx2torch makes of a node, and the names of what to pass to it.

    Whoever registers a converter there (`onnx2torch.node_converters.registry.add_converter`) teaches this
    package the operator too. What the module computes is compared with ONNX Runtime like everything else.

    Args:
        node: The node.
        model: A model of the one node: what the graph holds is an initializer, the rest are inputs.

    Returns:
        None where the registry has no converter.

    Raises:
        UnsupportedError: The converter refuses the node, or keeps weights of its own, which would not come back.
    """
    from onnx2torch.node_converters.registry import get_converter
    from onnx2torch.onnx_graph import OnnxGraph

    opsets: Mapping[str, int] = {i.domain: i.version for i in model.opset_import}
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        converter = get_converter(node.op_type, opsets.get(domain, 1), domain)
    except NotImplementedError:
        return None
    graph = OnnxGraph(model.graph)
    (only,) = graph.nodes.values()
    try:
        module, mapping = converter(only, graph)
    except Exception as e:  # noqa: BLE001  (converters raise what they like)
        raise UnsupportedError(
            f"{describe(node)}: onnx2torch's converter refuses it ({one_line(e, 100)}); compress without training"
        ) from None
    if any(True for _ in module.parameters()):
        raise UnsupportedError(
            f"{describe(node)}: onnx2torch's converter keeps a copy of its weights, which would not come back; "
            "compress without training"
        )
    built: Any = module
    return built, list(mapping.inputs)
