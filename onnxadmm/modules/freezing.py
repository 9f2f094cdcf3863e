"""What torch can't compute is executed as it is, by ONNX Runtime, where no gradient must pass through it.

Strings, trees, boxes that survive a suppression: pre- and postprocessing around what is trained. A frozen node
is the node itself, as a model of one node. It has no parameters and hands no gradient back, so a node is
frozen only where nothing that is trained lies before it, or where its outputs are no floats and no gradient
could pass anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import numpy_helper
from torch import nn

from onnxadmm.bench import open_isolated, run
from onnxadmm.errors import ModelError, UnsupportedError, one_line
from onnxadmm.graph import constant_of
from onnxadmm.ops import describe
from onnxadmm.ops.element_types import from_torch, numpy_type, to_torch

# What these draw is another thing in every run: no import could be compared with ONNX Runtime.
_RANDOM = {
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


class FrozenNode(nn.Module):
    """One node of the graph, run by ONNX Runtime on the CPU; takes and returns tensors or string arrays."""

    def __init__(
        self, content: bytes, inputs: dict[str, str | None], outputs: list[str], name: str
    ) -> None:
        """Open a session.

        Args:
            content: A model of the one node.
            inputs: Names of its inputs, in the order in which they are passed, with the numpy names of
                their element types (None of what is no plain tensor).
            outputs: Names of the outputs to return, in order.
            name: What to call the node in messages.

        Raises:
            UnsupportedError: ONNX Runtime can't run it either.
        """
        super().__init__()
        self._content, self._inputs, self._outputs, self._name = content, inputs, outputs, name
        self._session: Any = self._open()

    def forward(self, *values: Any) -> Any:
        """Run the node.

        Raises:
            UnsupportedError: ONNX Runtime refuses these inputs.
        """
        device = next((v.device for v in values if isinstance(v, torch.Tensor)), None)
        feeds = {
            name: _to_numpy(value, kind)
            for (name, kind), value in zip(self._inputs.items(), values, strict=True)
        }
        if self._session is None:
            self._session = self._open()
        try:
            found = run(self._session, self._outputs, feeds)
        except Exception as e:  # noqa: BLE001  (the bindings raise a dozen unrelated types)
            raise UnsupportedError(
                f"{self._name}: ONNX Runtime can't run it on these inputs ({one_line(e, 120)}); compress "
                "without training"
            ) from None
        results = tuple(_to_value(f, device) for f in found)
        return results[0] if len(results) == 1 else results

    def __getstate__(self) -> dict[str, Any]:
        """Leave the session behind: it is opened anew where the module is used."""
        return {**self.__dict__, "_session": None}

    def _open(self) -> Any:
        try:
            return open_isolated(self._content, name=self._name)
        except ModelError as e:
            raise UnsupportedError(
                f"{self._name}: neither torch nor ONNX Runtime can run it ({one_line(e, 120)}); compress "
                "without training"
            ) from None


def _to_numpy(value: Any, kind: str | None = None) -> Any:
    """Return a value as ONNX Runtime takes it; levels of a quantization, floats in torch, as their own type."""
    if isinstance(value, torch.Tensor):
        array = from_torch(value)
        return array if kind in (None, array.dtype.name) else array.astype(numpy_type(str(kind)))
    return [_to_numpy(v) for v in value] if isinstance(value, list | tuple) else value


def _to_value(found: Any, device: torch.device | None) -> Any:
    if isinstance(found, list):
        return [_to_value(f, device) for f in found]
    if found is None:
        return None
    array = np.asarray(found)
    # Strings stay what they are: only other frozen nodes read them.
    return array if array.dtype.kind in "OUS" else to_torch(array).to(device)


def captured(node: ir.Node) -> list[ir.Value]:
    """Return what a node's subgraphs read from around them, each value once."""
    inner: set[ir.Value] = set()
    read: dict[ir.Value, None] = {}
    for attribute in node.attributes.values():
        graphs = (
            [attribute.as_graph()]
            if attribute.type == ir.AttributeType.GRAPH
            else attribute.as_graphs()
            if attribute.type == ir.AttributeType.GRAPHS
            else []
        )
        for graph in graphs:
            inner |= {*graph.inputs, *graph.initializers.values()}
            for nested in ir.traversal.RecursiveGraphIterator(graph):
                inner |= set(nested.outputs)
                for attr in nested.attributes.values():
                    if attr.type == ir.AttributeType.GRAPH:
                        inner |= {*attr.as_graph().inputs, *attr.as_graph().initializers.values()}
                read |= dict.fromkeys(v for v in nested.inputs if v is not None)
            read |= dict.fromkeys(graph.outputs)
    return [v for v in read if v not in inner]


def alone(
    node: ir.Node, opsets: Mapping[str, int], types: Mapping[ir.Value, onnx.TypeProto]
) -> onnx.ModelProto:
    """Return a model of one node: what the graph holds of its inputs is held, the rest are inputs.

    Args:
        node: The node.
        opsets: Of the model.
        types: The type of everything that the node reads and the graph doesn't hold.
    """
    graph = onnx.GraphProto(name="one_node")
    graph.node.append(ir.to_proto(node))
    for value in _read(node):
        content = constant_of(value)
        if content is not None:
            array = np.asarray(content)
            # Strings of one length are no type of ONNX's.
            plain = array.astype(object) if array.dtype.kind in "SU" else array
            graph.initializer.append(numpy_helper.from_array(plain, value.name))
        else:
            graph.input.append(onnx.ValueInfoProto(name=value.name, type=types[value]))
    graph.output.extend(onnx.ValueInfoProto(name=v.name) for v in node.outputs if v.name)
    imports = [onnx.helper.make_opsetid(d, v) for d, v in opsets.items()]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)


def freeze(
    node: ir.Node, opsets: Mapping[str, int], types: Mapping[ir.Value, onnx.TypeProto]
) -> tuple[FrozenNode, list[ir.Value]]:
    """Return a node as a module of its own, and the values to pass to it.

    Args:
        node: The node; its domain's operators must be ONNX Runtime's.
        opsets: Of the model.
        types: The type of everything that the node reads and the graph doesn't hold.

    Raises:
        UnsupportedError: ONNX Runtime can't run it.
    """
    if node.op_type in _RANDOM:
        raise UnsupportedError(f"{describe(node)} draws random numbers; remove it")
    passed = [v for v in _read(node) if constant_of(v) is None]
    content = alone(node, opsets, types).SerializeToString()
    names = {v.name or "": _numpy_name(types[v]) for v in passed}
    outputs = [v.name for v in node.outputs if v.name]
    return FrozenNode(content, names, outputs, describe(node)), passed


def _read(node: ir.Node) -> list[ir.Value]:
    return list(dict.fromkeys([v for v in node.inputs if v is not None] + captured(node)))


def _numpy_name(kind: onnx.TypeProto) -> str | None:
    """Return the numpy name of a plain tensor's element type, None for strings, sequences and the like."""
    elements = ir.DataType(kind.tensor_type.elem_type)
    plain = kind.WhichOneof("value") == "tensor_type" and elements is not ir.DataType.STRING
    return elements.numpy().name if plain else None


def passes_gradient(kind: ir.DataType | None) -> bool:
    """Whether a value of this element type could hand a gradient on; unknown ones could."""
    return kind is None or kind.is_floating_point()
