"""From an ONNX graph to a trainable torch module: a builder an operator, assembled by torch.fx."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx, nn

from onnxadmm import ops
from onnxadmm.errors import UnsupportedError, one_line
from onnxadmm.graph import Probe, constant_of
from onnxadmm.modules.naming import attribute_path

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Imported:
    """A graph as a torch module.

    Attributes:
        module: Takes the graph's inputs in order, returns a tuple of its outputs in order.
        binding: Weight name in the graph -> its parameter; shared weights are one parameter.
        inputs: Names of the inputs, in order.
        outputs: Names of the outputs, in order.
    """

    module: fx.GraphModule
    binding: dict[str, nn.Parameter]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def weights(self) -> dict[str, Array]:
        """Return a copy of every weight as it is now, by its name in the graph."""
        return {name: p.detach().cpu().numpy().copy() for name, p in self.binding.items()}


def import_model(model: ir.Model, probe: Probe) -> Imported:
    """Build a torch module that computes what the graph computes.

    Weights (`ops.weights`) become parameters in their original layout, under their original names;
    other tensors become buffers. The graph isn't changed.

    Args:
        model: The graph.
        probe: Concrete shapes; only ranks and spatial sizes of SAME pads are read from it.

    Raises:
        UnsupportedError: A node that can't be trained; names node and operator.
    """
    scope = _Scope(model, probe)
    for value in model.graph.inputs:
        if value.name not in model.graph.initializers:
            scope.add_input(value)
    for node in model.graph:
        scope.visit(node)
    graph_outputs = list(model.graph.outputs)
    scope.graph.output(tuple(scope.tensor(v) for v in graph_outputs))
    # Shapes that builders read off directly leave their arithmetic behind.
    scope.graph.eliminate_dead_code()
    module = fx.GraphModule(scope.root, scope.graph, class_name="ImportedModel")
    module.graph.lint()
    parameters = dict(module.named_parameters())
    binding = {name: parameters[path] for name, path in scope.bound.items() if path in parameters}
    return Imported(
        module=module,
        binding=binding,
        inputs=tuple(scope.inputs),
        outputs=tuple(v.name or "" for v in graph_outputs),
    )


class _Scope:
    """The torch graph under construction (`ops.BuildScope`)."""

    def __init__(self, model: ir.Model, probe: Probe) -> None:
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.bound: dict[str, str] = {}
        self.inputs: list[str] = []
        self._opsets: Mapping[str, int] = dict(model.opset_imports)
        self._probe = probe
        self._weights = {
            id(r.value): n for n, r in ops.roles(model).items() if r.weight and r.dequantize is None
        }
        self._there: dict[str, Any] = {}

    # --- what builders ask

    def tensor(self, value: ir.Value | None) -> Any:
        if value is None:
            return None
        name = value.name or ""
        if name not in self._there:
            self._there[name] = self._held(value)
        return self._there[name]

    def constant(self, value: ir.Value | None) -> Array | None:
        return None if value is None else constant_of(value)

    def rank(self, value: ir.Value) -> int:
        return len(self.shape(value))

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        return self._probe.shapes[value.name or ""]

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # A method of Tensor has no name that a pickled module could import it by.
        if function is getattr(torch.Tensor, getattr(function, "__name__", ""), None):
            return self.graph.call_method(function.__name__, args, kwargs)
        return self.graph.call_function(function, args, kwargs)

    # --- the walk

    def add_input(self, value: ir.Value) -> None:
        name = value.name or ""
        self.inputs.append(name)
        self._there[name] = self.graph.placeholder(f"input_{len(self.inputs)}")

    def visit(self, node: ir.Node) -> None:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            return
        result = ops.find_for_training(node, self._opsets).build(node, self)
        results = result if isinstance(result, tuple) else (result,)
        for value, output in zip(node.outputs, results, strict=False):
            if value.name:
                self._there[value.name] = output

    def _held(self, value: ir.Value) -> fx.Node:
        """Enter a tensor that the graph holds: a parameter where it is a weight, else a buffer."""
        content = constant_of(value)
        name = value.name or ""
        if content is None:
            raise UnsupportedError(
                f"value {one_line(name, 60)!r} is computed by nothing that can be trained; compress "
                "without training"
            )
        trainable = id(value) in self._weights
        if trainable and content.dtype != np.float32:
            raise UnsupportedError(
                f"weight {one_line(name, 60)!r} is {content.dtype}; only float32 weights can be trained "
                "yet, compress without training"
            )
        tensor = torch.from_numpy(np.array(content))
        path = attribute_path(self.root, name)
        owner, leaf = _owner(self.root, path)
        if trainable:
            owner.register_parameter(leaf, nn.Parameter(tensor))
        else:
            owner.register_buffer(leaf, tensor)
        self.bound[self._weights.get(id(value), name)] = path
        return self.graph.get_attr(path)


def _owner(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the submodule that holds the last part of a dotted path, making those that lack."""
    *parents, leaf = path.split(".")
    owner = root
    for parent in parents:
        if parent not in owner._modules:  # noqa: SLF001  (no public test for a name that isn't there)
            owner.add_module(parent, nn.Module())
        owner = owner.get_submodule(parent)
    return owner, leaf
