"""What must hold of a model's protobuf before anything else looks at it: names, operators, nesting."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from onnxadmm.errors import ModelError, UnsupportedError, one_line
from onnxadmm.graph.tensors import MAX_RANK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# What ONNX Runtime takes. Older opsets have other operator semantics than any rule of ours.
MIN_OPSET, MAX_OPSET = 7, 26
MIN_IR_VERSION, MAX_IR_VERSION = 3, 13
# If in If in If: real models stay below 5, and some readers take exponential time.
MAX_SUBGRAPH_DEPTH = 16
# Exporters write a function for each module class; readers inline recursively.
MAX_FUNCTION_DEPTH = 64
# Nodes with every function written out.
MAX_NODES = 100_000
# Domains whose operators ONNX defines, and those that only ONNX Runtime can judge (the probe does).
DEFINED_DOMAINS = {"", "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.training"}
RUNTIME_DOMAINS = {"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
# What ONNX Runtime adds to the standard's own domain, where the opset has no operator of that name: its
# optimizer writes the normalisations there.
RUNTIME_OPERATORS = {
    *("Affine", "Crop", "DynamicSlice", "ImageScaler", "LayerNormalization", "ParametricSoftplus"),
    *("Scale", "ScaledTanh", "SimplifiedLayerNormalization"),
}

# What `wrapping` takes off.
_WRAPPED = {"map_type", "optional_type", "sequence_type"}

_FIELD_OF = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
    AttributeProto.TENSORS: "tensors",
    AttributeProto.GRAPHS: "graphs",
    AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    AttributeProto.TYPE_PROTOS: "type_protos",
}
Key = tuple[str, str, str]


def check_structure(model: ModelProto) -> None:
    """Check versions, names, operators and nesting of a model, functions included.

    Cost: linear in the size of the protobuf without its weights. Recursion is as deep as subgraphs
    nest, which the protobuf parser limits.

    Raises:
        ModelError: Something contradicts ONNX.
        UnsupportedError: It is ONNX, but nothing that ONNX Runtime or onnxadmm takes.
    """
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError("the model has no graph: invalid or truncated; export it again")
    _check_versions(model)
    graph = model.graph
    functions = _functions(model)
    if not graph.node:
        raise UnsupportedError("the model's graph has no nodes, so there is nothing to compress")
    if len(graph.node) > MAX_NODES:
        raise UnsupportedError(
            f"the graph has {len(graph.node)} nodes, above the limit of {MAX_NODES}; too large"
        )
    _check_interface(graph)
    opsets = _opsets(model.opset_import, "the model")
    devices = {c.name for c in model.configuration}
    _Scopes(opsets, functions, devices).check_graph(graph, (), 0)
    for function in functions.values():
        _check_function(function, opsets, functions, devices)
    _check_expansion(graph, functions)


def _check_versions(model: ModelProto) -> None:
    if not model.opset_import:
        raise ModelError("the model imports no opset (opset_import is empty); export it again")
    opsets = _opsets(model.opset_import, "the model")
    opset = opsets.get("")
    if opset is not None and not MIN_OPSET <= opset <= MAX_OPSET:
        way = "convert it with onnx.version_converter" if opset > 0 else "export it again"
        raise UnsupportedError(
            f"the model's opset version is {opset}; {MIN_OPSET} to {MAX_OPSET} are supported; {way}"
        )
    if not MIN_IR_VERSION <= model.ir_version <= MAX_IR_VERSION:
        raise UnsupportedError(
            f"the model's IR version is {model.ir_version}; {MIN_IR_VERSION} to {MAX_IR_VERSION} are "
            "supported; export it again"
        )


def _opsets(imports: Iterable[onnx.OperatorSetIdProto], where: str) -> dict[str, int]:
    opsets: dict[str, int] = {}
    for entry in imports:
        domain = _domain(entry.domain)
        if opsets.setdefault(domain, entry.version) != entry.version:
            raise ModelError(
                f"{where} imports two opset versions of domain {_quote(domain)}; export it again"
            )
    return opsets


def _check_interface(graph: GraphProto) -> None:
    """Check that inputs are named tensors with a type, each listed once; outputs may be sequences and maps too."""
    for what, values in (("input", graph.input), ("output", graph.output)):
        names = [v.name for v in values]
        for value in values:
            if not value.HasField("type") or value.type.WhichOneof("value") is None:
                raise ModelError(
                    f"graph {what} {_quote(value.name)} has no type; export the model again"
                )
            kind = value.type.WhichOneof("value")
            if what == "output" and kind in _WRAPPED:
                continue
            if kind != "tensor_type":
                raise UnsupportedError(
                    f"graph {what} {_quote(value.name)} is a {kind.removesuffix('_type')}, not a tensor: unsupported; "
                    "export it with tensors there"
                )
            if not value.type.tensor_type.elem_type:
                raise ModelError(
                    f"graph {what} {_quote(value.name)} has no element type; export the model again"
                )
            if (rank := len(value.type.tensor_type.shape.dim)) > MAX_RANK:
                raise UnsupportedError(
                    f"graph {what} {_quote(value.name)} has {rank} axes, above the limit of {MAX_RANK}; too large"
                )
        twice = _first_duplicate(names)
        if twice is not None:
            raise ModelError(
                f"graph {what} {_quote(twice)} is a duplicate: listed twice; list it once"
            )
    if not graph.output:
        raise ModelError("the graph has no output; export the model again")


class _Scopes:
    """Checks of the nodes of a graph or function, and of the graphs inside them."""

    def __init__(
        self,
        opsets: dict[str, int],
        functions: dict[Key, onnx.FunctionProto],
        devices: set[str],
        attributes: frozenset[str] | None = None,
    ) -> None:
        self._opsets = opsets
        self._functions = functions
        self._devices = devices  # the model's device configurations
        self._attributes = attributes  # that references may name; None outside functions

    def check_graph(self, graph: GraphProto, outer: tuple[set[str], ...], depth: int) -> None:
        """Check a graph; `outer` holds the names of each graph around it."""
        if depth > MAX_SUBGRAPH_DEPTH:
            raise UnsupportedError(
                f"subgraphs (If, Loop, Scan) nest deeper than {MAX_SUBGRAPH_DEPTH} levels; "
                "export with constant conditions"
            )
        inputs = [v.name for v in graph.input]
        weights = [t.name for t in graph.initializer]
        weights += [s.values.name for s in graph.sparse_initializer]
        for what, names in (("graph input", inputs), ("initializer", weights)):
            if not all(names):
                raise ModelError(f"a {what} has no name; export the model again")
            twice = _first_duplicate(names)
            if twice is not None:
                raise ModelError(
                    f"the name {_quote(twice)} is a duplicate: two {what}s carry it; rename one"
                )
        defined = set(inputs) | set(weights)
        self.check_nodes(graph.node, defined, outer, depth)
        for value in graph.output:
            if not any(value.name in names for names in (defined, *outer)):
                raise ModelError(
                    f"graph output {_quote(value.name)} is produced by no node; export the model again"
                )

    def check_nodes(
        self,
        nodes: Sequence[NodeProto],
        defined: set[str],
        outer: tuple[set[str], ...],
        depth: int,
    ) -> None:
        """Check nodes in order; their outputs are added to `defined`."""
        for node in nodes:
            self._check_operator(node)
            for name in node.input:
                if name and name not in defined and not any(name in o for o in outer):
                    raise ModelError(self._undefined(name, node, nodes))
            self._check_attributes(node, defined, outer, depth)
            for name in node.output:
                if name and name in defined:
                    raise ModelError(
                        f"node {_of(node)} writes {_quote(name)}, a duplicate name: SSA form needs one "
                        "producer of each value; rename one"
                    )
                if name:
                    defined.add(name)

    def _undefined(self, name: str, node: NodeProto, nodes: Sequence[NodeProto]) -> str:
        if any(name in other.output for other in nodes):
            return (
                f"node {_of(node)} reads {_quote(name)} before a node produces it: the nodes aren't "
                "sorted, or form a cycle; sort the graph"
            )
        return f"node {_of(node)} reads input {_quote(name)}, which nothing defines; export again"

    def _check_operator(self, node: NodeProto) -> None:
        domain = _domain(node.domain)
        if any(c.configuration_id not in self._devices for c in node.device_configurations):
            raise ModelError(
                f"node {_of(node)}: names a device configuration that the model doesn't hold; export it again"
            )
        function = self._functions.get((domain, node.op_type, node.overload))
        if function is not None:
            self._check_call(node, function)
            return
        if domain not in self._opsets:
            raise ModelError(
                f"node {_of(node)}: its domain {_quote(domain)} has no opset_import; export it again"
            )
        if domain in RUNTIME_DOMAINS:
            return
        if domain not in DEFINED_DOMAINS:
            raise UnsupportedError(
                f"node {_of(node)}: custom operator of unknown domain {_quote(domain)} is unsupported; "
                "export with standard operators or as a model-local function"
            )
        opset = self._opsets[domain]
        if not (has_schema(node.op_type, opset, domain) or is_runtimes_own(node, opset)):
            raise UnsupportedError(
                f"node {_of(node)}: no such operator in domain {_quote(domain or 'ai.onnx')} opset version "
                f"{self._opsets[domain]}: unsupported or custom; export it again"
            )

    def _check_call(self, node: NodeProto, function: onnx.FunctionProto) -> None:
        for what, given, taken in (
            ("inputs", len(node.input), len(function.input)),
            ("outputs", len(node.output), len(function.output)),
        ):
            if given > taken:
                raise ModelError(
                    f"node {_of(node)}: {given} {what}, but function {_quote(function.name)} has {taken}; "
                    "export it again"
                )

    def _check_attributes(
        self, node: NodeProto, defined: set[str], outer: tuple[set[str], ...], depth: int
    ) -> None:
        twice = _first_duplicate([a.name for a in node.attribute])
        if twice is not None:
            raise ModelError(
                f"node {_of(node)}: duplicate attribute {_quote(twice)}, and readers disagree which "
                "counts; keep one"
            )
        if (node.op_type, _domain(node.domain)) == ("Constant", "") and len(node.attribute) != 1:
            names = ", ".join(sorted(a.name for a in node.attribute))
            raise ModelError(
                f"node {_of(node)}: a Constant has one attribute, its value; this has {len(node.attribute)} "
                f"({one_line(names, 60)}), and readers disagree which counts; keep one"
            )
        for attribute in node.attribute:
            self._check_attribute(node, attribute)
            graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
            for graph in graphs:
                self.check_graph(graph, (defined, *outer), depth + 1)

    def _check_attribute(self, node: NodeProto, attribute: AttributeProto) -> None:
        where = f"node {_of(node)}, attribute {_quote(attribute.name)}"
        if not attribute.name:
            raise ModelError(f"node {_of(node)}: an attribute has no name; export the model again")
        filled = {f for f in _FIELD_OF.values() if _is_set(attribute, f)}
        if attribute.ref_attr_name:
            if self._attributes is None or attribute.ref_attr_name not in self._attributes:
                raise ModelError(
                    f"{where} refers to {_quote(attribute.ref_attr_name)}, which no function around it "
                    "declares; export the model again"
                )
            if filled:
                raise ModelError(f"{where} has a reference and a value; keep one")
            return
        field = _FIELD_OF.get(attribute.type)
        if field is None or filled - {field}:
            raise ModelError(
                f"{where}: its type ({attribute.type}) and its fields ({', '.join(sorted(filled)) or 'none'}) "
                "disagree; export the model again"
            )
        if attribute.type in {AttributeProto.TENSOR, AttributeProto.GRAPH} and not filled:
            raise ModelError(f"{where} has no data; export the model again")


def _check_function(
    function: onnx.FunctionProto,
    model_opsets: dict[str, int],
    functions: dict[Key, onnx.FunctionProto],
    devices: set[str],
) -> None:
    where = f"function {_quote(function.name)}"
    names = list(function.attribute) + [a.name for a in function.attribute_proto]
    for what, listed in (("input", function.input), ("attribute", names)):
        twice = _first_duplicate(listed)
        if twice is not None:
            raise ModelError(f"{where}: {what} {_quote(twice)} is a duplicate; rename one")
    if len(function.node) > MAX_NODES:
        raise UnsupportedError(f"{where}: {len(function.node)} nodes, above the limit; too large")
    opsets = _opsets(function.opset_import, where)
    opset = opsets.get("")
    if opset is not None and opset != model_opsets.get("", opset):
        # Inlining would need a version conversion, and ONNX Runtime doesn't do one either.
        raise UnsupportedError(
            f"{where} imports opset version {opset}, the model {model_opsets['']}; export it again"
        )
    defined = set(function.input)
    _Scopes(opsets, functions, devices, frozenset(names)).check_nodes(function.node, defined, (), 0)
    for name in function.output:
        if name not in defined:
            raise ModelError(f"{where}: output {_quote(name)} is produced by no node")


def _functions(model: ModelProto) -> dict[Key, onnx.FunctionProto]:
    functions: dict[Key, onnx.FunctionProto] = {}
    for function in model.functions:
        key = (_domain(function.domain), function.name, function.overload)
        if key in functions:
            raise ModelError(f"function {_quote(function.name)} is a duplicate; keep one")
        if key[0] in DEFINED_DOMAINS and has_schema(key[1], MAX_OPSET, key[0]):
            raise UnsupportedError(
                f"function {_quote(function.name)} would override the standard operator of that name; "
                "rename the function"
            )
        functions[key] = function
    return functions


def _check_expansion(graph: GraphProto, functions: dict[Key, onnx.FunctionProto]) -> None:
    """Refuse function cycles, deep chains and expansion bombs, without recursion."""
    calls = {key: _calls(f.node, functions) for key, f in functions.items()}
    size: dict[Key, int] = {}
    height: dict[Key, int] = {}
    for start in calls:
        stack = [(start, iter(calls[start][0]))]
        active = {start}
        while stack:
            key, rest = stack[-1]
            below = next((c for c in rest if c not in size), None)
            if below is not None:
                if below in active:
                    raise ModelError(
                        f"function {_quote(below[1])} calls itself (a cycle, recursive); inline it"
                    )
                active.add(below)
                stack.append((below, iter(calls[below][0])))
                continue
            stack.pop()
            active.discard(key)
            inner, own = calls[key]
            size[key] = own + sum(size[c] * n for c, n in inner.items())
            height[key] = 1 + max((height[c] for c in inner), default=0)
    inner, own = _calls(graph.node, functions)
    total = own + sum(size[c] * n for c, n in inner.items())
    if total > MAX_NODES or any(s > MAX_NODES for s in size.values()):
        raise UnsupportedError(
            f"the graph has more than {MAX_NODES} nodes with every function written out: above the size "
            "limit, too large"
        )
    if max(height.values(), default=0) > MAX_FUNCTION_DEPTH:
        raise UnsupportedError(
            f"function calls nest to a depth of {max(height.values())}, above the limit of "
            f"{MAX_FUNCTION_DEPTH}; inline them"
        )


def _calls(
    nodes: Iterable[NodeProto], functions: dict[Key, onnx.FunctionProto]
) -> tuple[dict[Key, int], int]:
    """Return how often each function is called, and the number of nodes, subgraphs included."""
    found: dict[Key, int] = {}
    count = 0
    stack = list(nodes)
    while stack:
        node = stack.pop()
        count += 1
        key = (_domain(node.domain), node.op_type, node.overload)
        if key in functions:
            found[key] = found.get(key, 0) + 1
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                stack.extend(attribute.g.node)
            for graph in attribute.graphs:
                stack.extend(graph.node)
    return found, count


def is_runtimes_own(node: NodeProto, opset: int) -> bool:
    """Whether a node is of an operator that ONNX Runtime adds to the standard's domain of this opset."""
    own = _domain(node.domain) == "" and node.op_type in RUNTIME_OPERATORS
    return own and not has_schema(node.op_type, opset, "")


@cache
def has_schema(op_type: str, opset: int, domain: str) -> bool:
    """Whether ONNX defines an operator in this version of the domain."""
    try:
        onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return False
    return True


def _is_set(attribute: Any, field: str) -> bool:
    if field.endswith("s") and field != "s":
        return len(getattr(attribute, field)) > 0
    return bool(attribute.HasField(field))


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _first_duplicate(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _quote(name: str) -> str:
    return repr(one_line(name, 50))


def _of(node: NodeProto) -> str:
    """Return a printable name of a node: its name, else its first output, with the operator."""
    name = node.name or next((o for o in node.output if o), "")
    return f"{one_line(repr(name), 50)} ({one_line(node.op_type, 30)})"
