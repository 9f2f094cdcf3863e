"""Graph outputs that are sequences or maps: what makes them of tensors waits aside, and comes back in the file.

scikit-learn's converter ends a classifier with a ZipMap, which turns each row of probabilities into a map from
class to number; other exporters gather their outputs in a sequence. Nothing in that learns, and no array compares
it. So the nodes after the last tensor are taken off when a model is loaded, the tensors that they read are outputs
in their place, and whoever writes the graph to a file gets the nodes and the outputs back as they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from onnxadmm.errors import ModelError, UnsupportedError, one_line
from onnxadmm.graph.holding import fresh
from onnxadmm.graph.tensors import walk

_KEY = "onnxadmm.wrapping"
_MOST_ELEMENTS = 1024


@dataclass(frozen=True)
class Wrapping:
    """What makes the outputs of a file from those of its graph in memory.

    Attributes:
        outputs: The file's outputs in order: its name where it is a tensor, and so an output in memory too; else
            its serialised ValueInfoProto.
        sources: Name of an output that is no tensor -> names of the tensors that it is made of.
        nodes: The nodes that make them, serialised, in order, and whether the graph in memory holds them too, since
            others read what they make.
        tensors: What the nodes read and the graph held, serialised.
    """

    outputs: tuple[str | bytes, ...]
    sources: Mapping[str, tuple[str, ...]]
    nodes: tuple[tuple[bytes, bool], ...]
    tensors: tuple[bytes, ...]


def wrapping_of(model: ir.Model) -> Wrapping | None:
    """Return what was taken off the graph when it was loaded; copies of it know too."""
    found: Wrapping | None = model.graph.meta.get(_KEY)
    return found


def remember_wrapping(model: ir.Model, wrapping: Wrapping | None) -> None:
    """Let a graph know what was taken off it."""
    if wrapping is not None:
        model.graph.meta[_KEY] = wrapping


def is_wrapped(proto: ModelProto) -> bool:
    """Whether a model has outputs that are no tensors."""
    return not all(map(_is_tensor, proto.graph.output))


def unwrap_outputs(proto: ModelProto) -> Wrapping | None:
    """Take the nodes off that make sequences and maps of tensors for outputs, in place.

    Args:
        proto: A model that passed the loader's checks.

    Returns:
        What `rewrap_outputs` needs to bring them back; None where every output is a tensor.

    Raises:
        ModelError: An output is a tensor, against what it declares.
        UnsupportedError: It isn't told what tensors an output is made of: a function or a subgraph makes it.
    """
    graph = proto.graph
    if not is_wrapped(proto):
        return None
    walk = _Walk(proto)
    outputs = [ValueInfoProto.FromString(v.SerializeToString()) for v in graph.output]
    sources = {v.name: walk.sources(v.name) for v in outputs if not _is_tensor(v)}
    types = {v.name: v for v in graph.value_info if _is_tensor(v)}
    shown = {v.name for v in outputs if _is_tensor(v)}
    del graph.output[:]
    for output in outputs:
        if _is_tensor(output):
            graph.output.append(output)
        for name in sources.get(output.name, ()):
            if name in walk.made and name not in shown:
                shown.add(name)
                graph.output.append(types.get(name) or walk.described(name, output))
    if not graph.output:
        raise UnsupportedError("no output depends on what a node computes")
    nodes = {i: graph.node[i].SerializeToString() for i in sorted(walk.tail)}
    removed = _remove(graph, walk.tail)
    return Wrapping(
        tuple(v.name if _is_tensor(v) else v.SerializeToString() for v in outputs),
        sources,
        tuple((content, i not in removed) for i, content in nodes.items()),
        tuple(t.SerializeToString() for t in walk.constants.values()),
    )


def rewrap_outputs(proto: ModelProto, wrapping: Wrapping | None) -> None:
    """Bring the outputs back that `unwrap_outputs` took off, in place.

    Args:
        proto: A graph that came from the one that was unwrapped; its outputs have the names that they had.
        wrapping: What that returned.

    Raises:
        UnsupportedError: Something else has got an output's name by now.
    """
    if wrapping is None:
        return
    graph = proto.graph
    there = {v.name: ValueInfoProto.FromString(v.SerializeToString()) for v in graph.output}
    taken = {o for m in walk(graph) if isinstance(m, NodeProto) for o in m.output}
    taken |= {t.name for t in graph.initializer} | {v.name for v in graph.input}
    names: dict[str, str] = {}
    for content in wrapping.tensors:
        tensor = TensorProto.FromString(content)
        tensor.name = names[tensor.name] = fresh(tensor.name, taken)
        graph.initializer.append(tensor)
    for content, stays in wrapping.nodes:
        node = NodeProto.FromString(content)
        if stays and taken.issuperset(node.output):
            continue
        clash = taken & {name for name in node.output if name}
        if clash:
            raise UnsupportedError(
                f"output {one_line(min(clash), 60)!r} bears the name of another value by now; rename it"
            )
        node.input[:] = [names.get(name, name) for name in node.input]
        graph.node.append(node)
    del graph.output[:]
    graph.output.extend(
        there[v] if isinstance(v, str) else ValueInfoProto.FromString(v) for v in wrapping.outputs
    )


class _Walk:
    """The way back from outputs to the tensors that they are made of.

    Attributes:
        made: Name of what a node makes -> the node's number.
        tail: Numbers of the nodes on the way.
        constants: Name -> what the nodes read and the graph holds.
    """

    def __init__(self, proto: ModelProto) -> None:
        graph = proto.graph
        self._nodes: list[NodeProto] = list(graph.node)
        self._opsets = {i.domain: i.version for i in proto.opset_import}
        self._held = {t.name: t for t in graph.initializer}
        self.made = {o: i for i, node in enumerate(self._nodes) for o in node.output if o}
        self.tail: set[int] = set()
        self.constants: dict[str, TensorProto] = {}

    def sources(self, output: str) -> tuple[str, ...]:
        """Return the names of the tensors that an output is made of, and note what makes it of them.

        Raises:
            ModelError: It is a tensor itself.
            UnsupportedError: It isn't told.
        """
        found: dict[str, None] = {}
        if self._holds_tensor(output, output):
            raise ModelError(
                f"graph output {one_line(repr(output), 60)} is declared a sequence or map, and what "
                f"{_what(self._nodes[self.made[output]]) if output in self.made else 'the graph'} gives is a tensor; "
                "export the model again"
            )
        waiting, seen = [output], {output}
        while waiting:
            name = waiting.pop()
            node = self._maker(name, output)
            self.tail.add(self.made[name])
            for read in node.input:
                if not read or read in seen:
                    continue
                seen.add(read)
                if read in self._held:
                    self.constants[read] = _small(self._held[read], output)
                elif read in self.made and self._is_constant(read):
                    self.tail.add(self.made[read])
                elif self._holds_tensor(read, output):
                    found[read] = None
                else:
                    waiting.append(read)
        return tuple(found)

    def described(self, name: str, output: ValueInfoProto) -> ValueInfoProto:
        """Return a tensor as an output, of the type that its readers take or that the output is of."""
        described = ValueInfoProto(name=name)
        kinds = {k for n, port in self._readers(name) for k in self._formal(n, port, "inputs")}
        if len(kinds) == 1 and (kind := _elements(kinds.pop())):
            described.type.tensor_type.elem_type = kind
            return described
        inner = output.type
        while (field := inner.WhichOneof("value")) in ("sequence_type", "optional_type"):
            inner = getattr(inner, field).elem_type
        if inner.WhichOneof("value") == "tensor_type" and inner.tensor_type.elem_type:
            described.type.tensor_type.elem_type = inner.tensor_type.elem_type
        return described

    def _readers(self, name: str) -> Iterator[tuple[NodeProto, int]]:
        for node in (self._nodes[i] for i in self.tail):
            yield from ((node, port) for port, read in enumerate(node.input) if read == name)

    def _maker(self, name: str, output: str) -> NodeProto:
        """Return the node that makes a value which is no tensor."""
        number = self.made.get(name)
        node = None if number is None else self._nodes[number]
        if node is None or any(a.type in _GRAPHS for a in node.attribute):
            raise UnsupportedError(
                f"graph output {one_line(output, 60)!r} is a sequence or map that {_what(node)} makes: it isn't told "
                "of which tensors; cut the graph before it (scikit-learn: options {'zipmap': False})"
            )
        return node

    def _is_constant(self, name: str) -> bool:
        node = self._nodes[self.made[name]]
        return node.op_type == "Constant" and node.domain in ("", "ai.onnx")

    def _holds_tensor(self, name: str, output: str) -> bool:
        """Whether a value is a tensor, by what its maker's operator may give."""
        while name in self.made:
            node = self._nodes[self.made[name]]
            port = list(node.output).index(name)
            kinds = self._formal(node, port, "outputs")
            plain = {k.startswith("tensor(") for k in kinds}
            if len(plain) == 1:
                return plain.pop()
            # An Identity gives what it takes.
            schema = self._schema(node)
            twin = None if schema is None else _twin(schema, port)
            if twin is None or twin >= len(node.input):
                self._maker("", output)
            name = node.input[twin or 0]
        return True

    def _formal(self, node: NodeProto, port: int, side: str) -> set[str]:
        schema = self._schema(node)
        formals = [] if schema is None else list(getattr(schema, side))
        return set(formals[min(port, len(formals) - 1)].types) if formals else set()

    def _schema(self, node: NodeProto) -> onnx.defs.OpSchema | None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        try:
            return onnx.defs.get_schema(node.op_type, self._opsets.get(domain, 1), domain)
        except onnx.defs.SchemaError:
            return None


_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def _twin(schema: onnx.defs.OpSchema, port: int) -> int | None:
    """Return the number of the input that an output has its type from."""
    wanted = schema.outputs[min(port, len(schema.outputs) - 1)].type_str
    return next((i for i, f in enumerate(schema.inputs) if f.type_str == wanted), None)


def _elements(kind: str) -> int:
    """Return ONNX's number of `tensor(float)`'s element type, 0 of what is no tensor."""
    name = kind.removeprefix("tensor(").removesuffix(")").upper()
    return int(TensorProto.DataType.Value(name)) if kind.startswith("tensor(") else 0


def _what(node: NodeProto | None) -> str:
    return "nothing in the graph" if node is None else f"a {one_line(node.op_type, 40)}"


def _is_tensor(value: ValueInfoProto) -> bool:
    return bool(value.type.WhichOneof("value") == "tensor_type")


def _remove(graph: GraphProto, tail: Iterable[int]) -> set[int]:
    """Remove the nodes of the tail that no other reads, and what nobody reads then; return their numbers."""
    read = {v.name for v in graph.output}
    wanted, removed = set(tail), set()
    for number in range(len(graph.node) - 1, -1, -1):
        node = graph.node[number]
        if number in wanted and not read & set(node.output):
            removed.add(number)
        else:
            read |= set(_read_by(node))
    before = {n for i in removed for n in graph.node[i].input}
    for number in sorted(removed, reverse=True):
        del graph.node[number]
    listed = {v.name for v in graph.input}
    for number in range(len(graph.initializer) - 1, -1, -1):
        name = graph.initializer[number].name
        if name in before and name not in read and name not in listed:
            del graph.initializer[number]
    return removed


def _small(tensor: TensorProto, output: str) -> TensorProto:
    """Return a constant, which the loader has left in the protobuf."""
    if math.prod(tensor.dims) > _MOST_ELEMENTS:
        raise UnsupportedError(
            f"graph output {one_line(output, 60)!r} is a sequence or map that is made with a tensor of "
            f"{math.prod(tensor.dims)} elements, too large a size; cut the graph before it"
        )
    return tensor


def _read_by(node: NodeProto) -> Iterator[str]:
    """Yield the names of what a node and its subgraphs read."""
    for message in walk(node):
        if isinstance(message, NodeProto):
            yield from message.input
        elif isinstance(message, GraphProto):
            yield from (v.name for v in message.output)
