"""From an ONNX graph to a trainable torch module: a builder an operator, assembled by torch.fx."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx, nn

from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import Probe, attempts, subgraphs
from onnxadmm.modules.control import Repetition, Sweep
from onnxadmm.modules.deadline import granted_s, limit_passes, limited
from onnxadmm.modules.fusing import fuse
from onnxadmm.modules.scope import Scope, UnsampledError
from onnxadmm.modules.statistics import detach_statistics, let_statistics_run

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Imported:
    """A graph as a torch module.

    Attributes:
        module: Takes the graph's inputs in order, returns a tuple of its outputs in order.
        binding: Weight name in the graph -> its parameter; shared weights are one parameter.
        inputs: Names of the inputs, in order.
        outputs: Names of the outputs, in order.
        frozen: Nodes that ONNX Runtime executes as they are; no gradient passes through them.
        places: Value name in the main graph -> name of the node of `module.graph` that computes it.
        statistics: Name in the graph -> buffer, of running statistics that follow the batches in training.
        untaught: Weights that no gradient gets to, since every way from them to an output leads through a frozen node.
        in_pieces: The module on any number of samples, where the graph takes one batch size (`for_any_batch`).
    """

    module: fx.GraphModule
    binding: dict[str, nn.Parameter]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    frozen: tuple[str, ...] = ()
    places: dict[str, str] = field(default_factory=dict)
    statistics: dict[str, torch.Tensor] = field(default_factory=dict)
    untaught: tuple[str, ...] = ()
    in_pieces: nn.Module | None = None

    @property
    def on_samples(self) -> nn.Module:
        """What is called on batches of samples."""
        return self.module if self.in_pieces is None else self.in_pieces

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """All that training changes, by its name in the graph: weights and running statistics."""
        return {**self.binding, **self.statistics}

    def weights(self) -> dict[str, Array]:
        """Return a copy of all that training changes as it is now, by its name in the graph."""
        return {name: t.detach().cpu().numpy().copy() for name, t in self.state.items()}


def import_model(model: ir.Model, probe: Probe, *, statistics: bool = False) -> Imported:
    """Build a torch module that computes what the graph computes.

    Weights that learn (`ops.roles`) become parameters in their original layout, under their original names;
    other tensors become buffers. The graph isn't changed.

    Args:
        model: The graph.
        probe: Concrete shapes; only ranks and spatial sizes of SAME pads are read from it.
        statistics: Whether BatchNormalization takes the batch's statistics while the module is in training
            mode, and its running ones follow; else it computes what inference does.

    Raises:
        UnsupportedError: A node that can't be trained; names node and operator.
    """
    imported = _assemble(_walked(model, probe), statistics=statistics)
    if any(isinstance(m, Repetition | Sweep) for m in imported.module.modules()):
        limit_passes(imported.module, probe)
    return imported


@dataclass(frozen=True)
class Survey:
    """What an import of a graph would do.

    Attributes:
        frozen: Nodes that ONNX Runtime executes as they are.
        refused: Why nodes can't be trained, each in a line; with any, the graph isn't imported.
        untaught: Weights that no gradient gets to through frozen nodes.
    """

    frozen: tuple[str, ...]
    refused: tuple[str, ...]
    untaught: tuple[str, ...] = ()


def survey_model(model: ir.Model, probe: Probe) -> Survey:
    """Say what an import would freeze and refuse, all of it, without a copy of the weights.

    Args:
        model: The graph, its weights float32 (`onnxadmm.graph.widen`).
        probe: As for `import_model`.
    """
    bodies = any(subgraphs(node) for node in model.graph)
    scope = _walked(model, probe, survey=True, hollow=not bodies)
    refused = tuple(scope.refusals or ())
    outputs = [scope.output(v) for v in model.graph.outputs]
    untaught = () if refused else _untaught(scope, outputs)
    if untaught and len(untaught) == len(_parameters(scope)):
        return Survey(tuple(scope.frozen), tuple(scope.severed.values()))
    return Survey(tuple(scope.frozen), refused, untaught)


def _walked(model: ir.Model, probe: Probe, *, survey: bool = False, hollow: bool = False) -> Scope:
    """Return the scope of the main graph after the walk over its nodes."""
    # Loops run, so that the shapes inside them are known.
    with limited(granted_s(probe)):
        for inputs in (probe.inputs, *(attempts(model, 1, None, 0) if _branches(model) else ())):
            # Both branches of an If are built, and the inputs that ran may fit the taken one alone.
            with contextlib.suppress(UnsampledError):
                return _walk(Scope(model, probe, inputs, survey=survey, hollow=hollow))
        return _walk(Scope(model, probe, probe.inputs, patient=False, survey=survey, hollow=hollow))


def _walk(scope: Scope) -> Scope:
    graph = scope.model.graph
    for value in graph.inputs:
        if value.name not in graph.initializers:
            scope.add_input(value)
    for node in graph:
        scope.visit(node)
    return scope


def _branches(model: ir.Model) -> bool:
    return any(node.op_type == "If" for node in model.graph.all_nodes())


def _assemble(scope: Scope, *, statistics: bool) -> Imported:
    """Return the module of a graph that was walked."""
    graph_outputs = list(scope.model.graph.outputs)
    outputs = tuple(scope.output(v) for v in graph_outputs)
    untaught = _untaught(scope, outputs)
    if untaught and len(untaught) == len(_parameters(scope)):
        raise UnsupportedError(next(iter(scope.severed.values())))
    scope.graph.output(outputs)
    module = fx.GraphModule(scope.root, scope.graph, class_name="ImportedModel")
    # Shapes that builders read off directly leave their arithmetic behind.
    module.graph.eliminate_dead_code()
    fuse(module)
    detach_statistics(module)
    module.recompile()
    module.graph.lint()
    running = let_statistics_run(module) if statistics else []
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    binding = {name: parameters[path] for name, path in scope.bound.items() if path in parameters}
    return Imported(
        module=module,
        binding=binding,
        inputs=tuple(scope.inputs),
        outputs=tuple(v.name or "" for v in graph_outputs),
        frozen=tuple(scope.frozen),
        places=scope.places(),
        statistics={n: buffers[path] for n, path in scope.bound.items() if path in running},
        untaught=untaught,
    )


def _parameters(scope: Scope) -> dict[str, str]:
    """Return the names of the weights that were entered, with their places in the module."""
    there = {path for path, _ in scope.root.named_parameters()}
    return {name: path for name, path in scope.bound.items() if path in there}


def _untaught(scope: Scope, outputs: Sequence[Any]) -> tuple[str, ...]:
    """Return the weights from which no way leads to an output but through nodes that no gradient passes."""
    if not scope.severed:
        return ()
    waiting = [o for o in outputs if isinstance(o, fx.Node)]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.op == "call_module" and node.target in scope.severed:
            continue
        fresh = [n for n in node.all_input_nodes if n not in seen]
        seen.update(fresh)
        waiting += fresh
    # What lies in a subgraph is reached with the module that runs it.
    reached = {str(n.target) for n in seen if n.op in ("get_attr", "call_module")}
    return tuple(
        name
        for name, path in _parameters(scope).items()
        if not any(path == r or path.startswith(f"{r}.") for r in reached)
    )
