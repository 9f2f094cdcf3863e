"""The torch graph under construction: what builders ask, and the walk over the nodes."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import fx, nn

from onnxadmm import ops
from onnxadmm.errors import UnsupportedError, one_line
from onnxadmm.graph import Probe, constant_of, subgraphs
from onnxadmm.graph.mapping import is_mapped
from onnxadmm.modules.control import Branches, Repetition, Sweep, evaluate
from onnxadmm.modules.deadline import Overdue
from onnxadmm.modules.delegating import delegate
from onnxadmm.modules.freezing import alone, captured, freeze, passes_gradient
from onnxadmm.modules.naming import attribute_path
from onnxadmm.ops.element_types import FLOAT8, UNSHOWN, kind_of, to_torch, torch_type
from onnxadmm.ops.masters import bounds, has_master, master_of, read_by_master
from onnxadmm.ops.quantization import dequantize, quantize

Array = np.ndarray[Any, Any]


class UnsampledError(UnsupportedError):
    """A subgraph doesn't run on the samples at hand."""


_CONTROL = {"If", "Loop", "Scan"}
_FIRST_SCAN = 9


class Scope:
    """The torch graph under construction (`ops.BuildScope`)."""

    def __init__(
        self,
        model: ir.Model,
        probe: Probe,
        inputs: Mapping[str, Array],
        parent: Scope | None = None,
        *,
        patient: bool = True,
        survey: bool = False,
        hollow: bool = False,
    ) -> None:
        """Begin an empty graph.

        Args:
            model: The model.
            probe: Shapes and types of the main graph's values.
            inputs: What subgraphs are tried on, to learn the shapes inside them.
            parent: The scope around a subgraph.
            patient: Whether other inputs may come, where a subgraph doesn't run on these.
            survey: Collect refusals and go on, instead of raising the first.
            hollow: Parameters have no content: to see what can be imported, without a copy of the weights.
        """
        self.refusals: list[str] | None = [] if survey else None
        self._hollow = hollow
        self.model, self._parent, self._inputs, self._patient = model, parent, inputs, patient
        self._samples: dict[Any, Any] = {}
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.bound: dict[str, str] = {}
        self.inputs: list[str] = []
        self.results: list[ir.Value] = []
        self._opsets: Mapping[str, int] = dict(model.opset_imports)
        self._probe = probe
        if parent is None:
            learning = {n: r for n, r in ops.roles(model).items() if r.learns}
            self._masters = {id(r.value): r for r in learning.values() if has_master(r)}
            self._weights = {
                id(r.value): n
                for n, r in learning.items()
                if r.dequantize is None or id(r.value) in self._masters
            }
        else:
            self._masters, self._weights = parent._masters, parent._weights  # noqa: SLF001
        self.frozen: list[str] = []
        # Those of the frozen nodes that a gradient would have to pass: path of the module -> why it can't.
        self.severed: dict[str, str] = {}
        self._there: dict[str, Any] = {}
        self._learned: set[str] = set()

    # --- what builders ask

    def tensor(self, value: ir.Value | None) -> Any:
        """Return what stands for the value in the torch graph (None for an absent input)."""
        if value is None:
            return None
        name = value.name or ""
        if name not in self._there:
            self._there[name] = self._held(value)
        return self._there[name]

    def constant(self, value: ir.Value | None) -> Array | None:
        """Return the value's content where it is known before the model runs."""
        return None if value is None else constant_of(value)

    def rank(self, value: ir.Value) -> int:
        """Return the number of axes of the value."""
        return len(self.shape(value))

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Return a concrete shape of the value; symbolic axes hold what a run saw."""
        seen = None if self._parent else self._probe.shapes.get(value.name or "")
        content = constant_of(value)
        if seen is not None or content is not None:
            return seen if seen is not None else content.shape  # type: ignore[union-attr]
        return tuple(self._sample(value).shape)

    def _sample(self, value: ir.Value) -> Any:
        """Return what stands for a value when the graph runs on the probe's inputs.

        Raises:
            UnsupportedError: It doesn't run.
        """
        try:
            return evaluate(self.graph, self.root, self._samples, self.tensor(value))
        except Overdue:
            raise
        except Exception as e:  # noqa: BLE001  (torch raises what it likes)
            raise (UnsampledError if self._patient else UnsupportedError)(
                f"value {one_line(value.name, 60)!r}: its shape is not known ({one_line(e, 80)}); compress "
                "without training"
            ) from None

    def kind(self, value: ir.Value) -> ir.DataType:
        """Return the value's element type in the graph."""
        found, content = self._kind(value), constant_of(value)
        if found is None and content is None:
            raise UnsupportedError(
                f"value {one_line(value.name, 60)!r}: its element type is not known; compress without training"
            )
        if found is not None:
            return found
        assert content is not None
        return kind_of(content.dtype.name)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Add a call to the torch graph and return what stands for its result."""
        # A method of Tensor has no name that a pickled module could import it by.
        if function is getattr(torch.Tensor, getattr(function, "__name__", ""), None):
            return self.graph.call_method(function.__name__, args, kwargs)
        return self.graph.call_function(function, args, kwargs)

    def places(self) -> dict[str, str]:
        """Return the name of each value's node in the torch graph, of those that are left there."""
        left = {node.name for node in self.graph.nodes}
        return {
            name: stands.name
            for name, stands in self._there.items()
            if isinstance(stands, fx.Node) and stands.name in left
        }

    # --- the walk

    def add_input(self, value: ir.Value) -> None:
        """Enter an input of the graph, the next in order."""
        name = value.name or ""
        self.inputs.append(name)
        stands = self.graph.placeholder(f"input_{len(self.inputs)}")
        self._there[name] = stands
        if name in self._inputs and self._parent is None:
            array = np.asarray(self._inputs[name])
            self._samples[stands] = array if array.dtype.kind in "OUS" else to_torch(array)

    def output(self, value: ir.Value) -> Any:
        """Return a graph output; levels of a quantization, floats on the way, become their own type."""
        kind = self._kind(value)
        if kind is None or not self._holds_levels(value):
            return self.tensor(value)
        if kind.is_floating_point() and kind not in FLOAT8:
            return self.tensor(value)
        return self.call(torch.Tensor.to, self.tensor(value), torch_type(kind))

    def _holds_levels(self, value: ir.Value) -> bool:
        """Whether a value that is of integers in the graph may be of floats here."""
        producer = value.producer()
        found = None if producer is None else ops.find(producer, self._opsets)
        return found is not None and found.straight_through

    def visit(self, node: ir.Node) -> None:
        """Add a node: built, delegated, frozen, or refused.

        Raises:
            UnsupportedError: It is refused, and this is no survey.
        """
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            return
        read = [v for v in (*node.inputs, *captured(node)) if v is not None]
        inside = [v for g in subgraphs(node) for v in _held_inside(g)]
        learned = any(v.name in self._learned or id(v) in self._weights for v in read + inside)
        before = len(self.severed)
        names, outputs = self._results(node, learned=learned)
        learned = learned and len(self.severed) == before
        for name, output in zip(names, outputs, strict=False):
            if name:
                self._there[name] = output
                if learned:
                    self._learned.add(name)

    def _results(self, node: ir.Node, *, learned: bool) -> tuple[list[str | None], list[Any]]:
        """Return the names of a node's outputs and what stands for them."""
        names = [v.name for v in node.outputs]
        try:
            return names, list(self._build(node))
        except UnsampledError:
            raise
        except UnsupportedError as e:
            refusal = e
        try:
            return self._freeze(node, refusal, learned=learned)
        except UnsupportedError:
            pass
        try:
            return names, self._delegate(node, refusal)
        except UnsupportedError as e:
            refusal = e
        # What learns behind the node goes on learning; what lies before it stays as it is.
        held = any(id(v) in self._weights for v in node.inputs if v is not None)
        if learned and not held and self._parent is None and not subgraphs(node):
            with contextlib.suppress(UnsupportedError):
                found = self._freeze(node, refusal, learned=False)
                self.severed[f"frozen_{len(self.frozen)}"] = str(refusal)
                return found
        if self.refusals is None:
            raise refusal from None
        self.refusals.append(str(refusal))
        return names, [self.graph.placeholder(f"refused_{n}") for n in names]

    def _build(self, node: ir.Node) -> tuple[Any, ...]:
        """Add a node by its builder.

        Raises:
            UnsupportedError: Strings, no builder, or outputs that it doesn't compute.
        """
        if any(self._is_text(v) for v in (*node.inputs, *node.outputs)):
            raise UnsupportedError(
                f"{ops.describe(node)}: strings have no tensors in torch; compress without training"
            )
        if node.op_type in _CONTROL and node.domain in ("", "ai.onnx"):
            return self._control(node)
        role = read_by_master(node, self._masters)
        if role is not None:
            return (self._rounded(node, role),)
        result = ops.find_for_training(node, self._opsets).build(node, self)
        results = result if isinstance(result, tuple) else (result,)
        if any(v.name and (v.uses() or v.is_graph_output()) for v in node.outputs[len(results) :]):
            raise UnsupportedError(
                f"{ops.describe(node)}: only its first {len(results)} outputs can be trained yet; "
                "compress without training"
            )
        return results

    def _rounded(self, node: ir.Node, role: ops.Role) -> Any:
        """Return what stands for a float master at the levels nearest to it."""
        master, scale = self.tensor(role.value), self.tensor(node.inputs[1])
        zero = self.tensor(node.inputs[2]) if len(node.inputs) > 2 else None  # noqa: PLR2004
        axis = node.attributes.get_int("axis", 1)
        levels = self.call(quantize, master, scale, zero, axis, bounds(role))
        return self.call(dequantize, levels, scale, zero, axis)

    def _control(self, node: ir.Node) -> tuple[Any, ...]:
        """Add a node with subgraphs: each becomes a torch module of its own."""
        around = [v for v in captured(node) if constant_of(v) is None or id(v) in self._weights]
        given = [self.tensor(v) for v in node.inputs]
        if node.op_type == "If":
            names = ("then_branch", "else_branch")
            fixed = self.constant(node.inputs[0])
            if fixed is not None:
                names = (names[0 if fixed.all() else 1],) * 2
            bodies = [self._body(node, n, [], around) for n in dict.fromkeys(names)]
            modules = [b.module() for b in bodies]
            module: nn.Module = modules[0] if len(modules) == 1 else Branches(*modules)
            given = [] if len(modules) == 1 else given
            places = ["", ""] if len(modules) == 1 else ["then.", "otherwise."]
        else:
            samples = [None if v is None else self._sample(v) for v in node.inputs]
            body, module = self._repeated(node, samples, around)
            bodies, places = [body], ["body."]
        path = f"{node.op_type.lower()}_{sum(1 for _ in self.root.children()) + 1}"
        self.root.add_module(path, module)
        for body, place in zip(bodies, places, strict=False):
            self.bound |= {n: f"{path}.{place}{p}" for n, p in body.bound.items()}
            self.frozen += body.frozen
        result = self.graph.call_module(path, (*given, *(self.tensor(v) for v in around)))
        return tuple(self.call(operator.getitem, result, k) for k in range(len(node.outputs)))

    def _repeated(
        self, node: ir.Node, samples: list[Any], around: list[ir.Value]
    ) -> tuple[Scope, nn.Module]:
        """Return the body of a Loop or a Scan, and the module that repeats it.

        Raises:
            UnsupportedError: A Scan of opset 8, whose sequences are batched.
        """
        if node.op_type == "Loop":
            first = [torch.tensor(0), torch.tensor(True), *samples[2:]]
            body = self._body(node, "body", first, around)
            carried = len(node.inputs) - 2
            rows = [body._sample(v) for v in body.results[1 + carried :]]  # noqa: SLF001
            return body, Repetition(
                body.module(), carried, [(tuple(r.shape), r.dtype) for r in rows]
            )
        if "directions" in node.attributes or self._opsets.get("", 9) < _FIRST_SCAN:
            raise UnsupportedError(
                f"{ops.describe(node)}: Scan of opset 8 can't be trained; convert the model to opset 9"
            )
        count = node.attributes["num_scan_inputs"].as_int()
        states = len(node.inputs) - count
        results = len(node.outputs) - states

        def places(kind: str, n: int) -> list[tuple[int, bool]]:
            axes, ways = (
                list(node.attributes[name].as_ints()) if name in node.attributes else [0] * n
                for name in (f"scan_{kind}_axes", f"scan_{kind}_directions")
            )
            return [(a, bool(w)) for a, w in zip(axes, ways, strict=True)]

        reads = places("input", count)
        rows = [s.select(a, 0) for s, (a, _) in zip(samples[states:], reads, strict=True)]
        body = self._body(node, "body", [*samples[:states], *rows], around)
        return body, Sweep(body.module(), states, reads, places("output", results))

    def _body(self, node: ir.Node, name: str, samples: list[Any], around: list[ir.Value]) -> Scope:
        """Return a subgraph built in a scope of its own; its inputs, then what it reads from around it."""
        graph = node.attributes[name].as_graph()
        scope = Scope(self.model, self._probe, {}, self, patient=self._patient)
        given = [*zip(graph.inputs, samples, strict=True), *((v, self._sample(v)) for v in around)]
        for value, sample in given:
            scope.add_input(value)
            scope._samples[scope._there[value.name or ""]] = sample
            if id(value) in self._weights or value.name in self._learned:
                scope._learned.add(value.name or "")
        for inner in graph:
            scope.visit(inner)
        scope.results = list(graph.outputs)
        scope.graph.output(tuple(scope.tensor(v) for v in graph.outputs))
        return scope

    def module(self) -> fx.GraphModule:
        """Return the finished torch module."""
        module = fx.GraphModule(self.root, self.graph, class_name="ImportedBody")
        module.graph.eliminate_dead_code()
        module.recompile()
        return module

    def _is_text(self, value: ir.Value | None) -> bool:
        if value is None:
            return False
        seen = self._probe.dtypes.get(value.name or "", "")
        return value.dtype is ir.DataType.STRING or seen == "object"

    def _freeze(
        self, node: ir.Node, refusal: UnsupportedError, *, learned: bool
    ) -> tuple[list[str | None], list[Any]]:
        """Execute a node as it is, by ONNX Runtime, where no gradient must pass through it.

        Raises:
            UnsupportedError: One must, or ONNX Runtime can't run it either: `refusal`, then.
        """
        named = [v for v in node.outputs if v.name]
        read = [v for v in (*node.inputs, *captured(node)) if v is not None]
        # Of levels the next levels are made: a gradient passes them.
        if learned and any(
            [passes_gradient(self._kind(v)) for v in named]
            + [self._holds_levels(v) for v in (*read, *named)]
        ):
            raise refusal
        # ONNX Runtime's Python hands these over as other types, or not at all.
        if any(self._kind(v) in UNSHOWN for v in named):
            raise refusal
        try:
            types = {v: self._type(v) for v in read if constant_of(v) is None}
            module, passed = freeze(node, self._opsets, types)
        except UnsupportedError:
            raise refusal from None
        path = f"frozen_{len(self.frozen) + 1}"
        self.root.add_module(path, module)
        self.frozen.append(ops.describe(node))
        result = self.graph.call_module(path, tuple(self.output(v) for v in passed))
        if len(named) == 1:
            return [named[0].name], [result]
        parts = [self.call(operator.getitem, result, k) for k in range(len(named))]
        return [v.name for v in named], parts

    def _delegate(self, node: ir.Node, refusal: UnsupportedError) -> list[Any]:
        """Add a node that no builder of ours computes by onnx2torch's converter.

        Raises:
            UnsupportedError: There is none, which is `refusal`, or it doesn't suit.
        """
        if ops.find(node, self._opsets) is not None or subgraphs(node):
            raise refusal
        types = {v: self._type(v) for v in node.inputs if v is not None and constant_of(v) is None}
        found = delegate(node, alone(node, self._opsets, types))
        if found is None:
            raise refusal
        module, names = found
        read = {v.name: v for v in node.inputs if v is not None}
        path = f"delegated_{sum(1 for _ in self.root.children()) + 1}"
        self.root.add_module(path, module)
        result = self.graph.call_module(path, tuple(self.tensor(read.get(n)) for n in names))
        if len(node.outputs) == 1:
            return [result]
        return [self.call(operator.getitem, result, k) for k in range(len(node.outputs))]

    def _kind(self, value: ir.Value) -> ir.DataType | None:
        seen = self._probe.dtypes.get(value.name or "")
        if value.dtype is not None:
            return value.dtype
        return None if seen is None else kind_of(seen)

    def _type(self, value: ir.Value) -> onnx.TypeProto:
        """Return a value's type with an open shape."""
        found = onnx.TypeProto()
        if value.type is not None:
            ir.serde.serialize_type_into(found, from_=value.type)
        else:
            found.tensor_type.elem_type = self.kind(value)
        return found

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
        if id(value) in self._masters:
            content = master_of(self._masters[id(value)])
        if trainable and content.dtype != np.float32:
            raise UnsupportedError(
                f"weight {one_line(name, 60)!r} is {content.dtype}; only float32 weights can be trained "
                "yet, compress without training"
            )
        hollow = self._hollow and trainable
        own = is_mapped(value) or id(value) in self._masters
        tensor = torch.empty(content.shape, device="meta") if hollow else to_torch(content, own=own)
        path = attribute_path(self.root, name)
        owner, leaf = _owner(self.root, path)
        if trainable:
            owner.register_parameter(leaf, nn.Parameter(tensor))
        else:
            owner.register_buffer(leaf, tensor)
        self.bound[self._weights.get(id(value), name)] = path
        return self.graph.get_attr(path)


def _held_inside(graph: ir.Graph) -> list[ir.Value]:
    """Return what a subgraph could hold."""
    nodes = list(graph.all_nodes())
    held = [v for n in nodes for g in subgraphs(n) for v in g.initializers.values()]
    return [*graph.initializers.values(), *held, *(v for n in nodes for v in n.outputs)]


def _owner(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the submodule that holds the last part of a dotted path, making those that lack."""
    *parents, leaf = path.split(".")
    owner = root
    for parent in parents:
        if parent not in owner._modules:  # noqa: SLF001  (no public test for a name that isn't there)
            owner.add_module(parent, nn.Module())
        owner = owner.get_submodule(parent)
    return owner, leaf
