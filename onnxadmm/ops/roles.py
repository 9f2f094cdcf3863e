"""Which tensors of a graph are weights: those that play a weight's role, wherever they stand.

A role is found by following a tensor forwards. Through nodes that read only what the graph holds (a Transpose, a
Cast, a Reshape, the arithmetic of a weight normalisation) it is followed on; where it meets what is computed
at run time, the operator's definition says whether that input holds a weight. Element-wise arithmetic takes
weights and plain constants alike: `onnxadmm.ops.learnt` tells those apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxadmm.graph import constant_of, subgraphs
from onnxadmm.ops._base import Operator, describe, find
from onnxadmm.ops.learnt import Judge

# Where a tensor is followed on from any input; elsewhere only from the first, which holds the data.
_COMBINING = {
    "Add",
    "Concat",
    "Div",
    "Einsum",
    "Gemm",
    "MatMul",
    "Max",
    "Mean",
    "Min",
    "Mul",
    "Sub",
    "Sum",
    "Where",
}
_RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
_CHOICE = "onnxadmm.learns"
INCLUDED = "the spec includes it"
"""Why a tensor is a weight that the rule doesn't take for one."""
LEVELS = {
    ir.DataType.INT2: (-2, 1),
    ir.DataType.UINT2: (0, 3),
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT16: (0, 65535),
    ir.DataType.INT32: (-(2**31), 2**31 - 1),
}
"""Integer types that a weight can be stored in, behind a DequantizeLinear, with their smallest and largest."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a tensor that the graph holds is to the network.

    Attributes:
        value: The initializer, or the output of a Constant node.
        weight: Whether it is a weight.
        why: Which node makes it one, or why it is none.
        readers: The nodes that use it as a weight.
        dequantize: The DequantizeLinear that reads it, of a weight that is stored in integers.
        learns: Whether training changes it: a weight that nobody excluded.
    """

    value: ir.Value
    weight: bool
    why: str
    readers: tuple[ir.Node, ...] = ()
    dequantize: ir.Node | None = None
    learns: bool = False


def held(model: ir.Model) -> dict[str, ir.Value]:
    """Return what the graph and the graphs inside it hold: initializers and outputs of Constant nodes.

    The key is the tensor's name. Two branches of an If may use one name for two tensors; the second one's key
    gets a number (`name#2`).
    """
    found: dict[str, ir.Value] = {}
    for value in _held_in(model.graph):
        name, n = value.name or "", 2
        while name in found:
            name, n = f"{value.name}#{n}", n + 1
        found[name] = value
    return found


def held_tensors(model: ir.Model) -> Iterator[ir.Value]:
    """Yield what the graph holds, in the order of `held`."""
    yield from held(model).values()


def roles(model: ir.Model) -> dict[str, Role]:
    """Return the role of every held tensor that could be a weight: floats, and dequantized integers.

    A choice that `choose` made for a tensor stands above the rule.
    """
    flow = _Flow(model)
    found: dict[str, Role] = {}
    for name, value in held(model).items():
        kind = element_type(value)
        if kind is not None and kind.is_floating_point() and kind.itemsize > 1:
            found[name] = _chosen(flow.role(value, None))
        elif kind in LEVELS:
            node = _dequantizer(value)
            if node is not None:
                found[name] = _chosen(flow.role(value, node))
    return found


def choose(value: ir.Value, *, learns: bool) -> None:
    """Let a held tensor learn, or stay as it is, whatever the rule says; clones of the graph keep the choice."""
    value.meta[_CHOICE] = learns


def _chosen(role: Role) -> Role:
    choice = role.value.meta.get(_CHOICE)
    if choice is None:
        return replace(role, learns=role.weight)
    if choice:
        readers = role.readers or tuple(dict.fromkeys(node for node, _ in role.value.uses()))
        return replace(role, weight=True, learns=True, why=INCLUDED, readers=readers)
    why = f"{role.why}; the spec excludes it" if role.weight else role.why
    return replace(role, why=why)


def weights(model: ir.Model) -> dict[str, ir.Value]:
    """Return the weights by name, in graph order; those stored in integers are among them.

    Bounds, exponents, epsilons, masks and running statistics are none.
    """
    return {name: role.value for name, role in roles(model).items() if role.weight}


def layer_weights(model: ir.Model) -> dict[str, list[str]]:
    """Return node name -> names of the weights that the node uses, in graph order."""
    readers: dict[int, list[str]] = {}
    for name, role in roles(model).items():
        for node in role.readers if role.weight else ():
            readers.setdefault(id(node), []).append(name)
    return {
        node.name or node.outputs[0].name or "": readers[id(node)]
        for node in model.graph.all_nodes()
        if id(node) in readers
    }


def element_type(value: ir.Value) -> ir.DataType | None:
    """Return the element type of a held tensor."""
    if value.const_value is not None:
        return value.const_value.dtype
    content = constant_of(value)
    return (
        None
        if content is None or content.dtype == object
        else ir.DataType.from_numpy(content.dtype)
    )


def _held_in(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.initializers.values()
    for node in graph:
        if _is_constant(node):
            yield node.outputs[0]
        for inner in subgraphs(node):
            yield from _held_in(inner)


def _is_constant(node: ir.Node) -> bool:
    return node.op_type == "Constant" and node.domain in {"", "ai.onnx"}


def _dequantizer(value: ir.Value) -> ir.Node | None:
    """Return the DequantizeLinear that reads an integer tensor; None where its values have no one meaning."""
    nodes = [
        node if node.op_type == "DequantizeLinear" and not port else None
        for node, port in value.uses()
    ]
    first = nodes[0] if nodes else None
    if first is None:
        return None
    terms = first.inputs[1:]
    same = all(
        n is not None
        and list(n.inputs[1:]) == list(terms)
        and all(_number(n, a) == _number(first, a) for a in ("axis", "block_size"))
        for n in nodes
    )
    known = all(v is None or constant_of(v) is not None for v in terms)
    return first if same and known else None


def _number(node: ir.Node, name: str) -> int:
    default = 1 if name == "axis" else 0
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


class _Flow:
    """Where the tensors that a graph holds are used."""

    def __init__(self, model: ir.Model) -> None:
        self._opsets = dict(model.opset_imports)
        self._still: set[int] = set()
        self._enter(model.graph)
        self._judge = Judge(model.graph, self._still)

    def role(self, value: ir.Value, dequantize: ir.Node | None) -> Role:
        """Return the role of a held tensor."""
        readers: list[ir.Node] = []
        reasons: list[str] = []
        waiting, seen = [value], {id(value)}
        while waiting:
            current = waiting.pop()
            for node, port in current.uses():
                if node.outputs and id(node.outputs[0]) in self._still:
                    if port and node.op_type not in _COMBINING:
                        reasons.append(f"a parameter of {describe(node)}")
                        continue
                    new = [v for v in node.outputs if id(v) not in seen]
                    seen.update(id(v) for v in new)
                    waiting += new
                    continue
                reason = self._refusal(node, port, value)
                if reason is None:
                    readers.append(node)
                else:
                    reasons.append(reason)
        if readers:
            return Role(
                value, True, f"a weight of {describe(readers[0])}", tuple(readers), dequantize
            )
        return Role(value, False, reasons[0] if reasons else "no node reads it")

    def _refusal(self, node: ir.Node, port: int, value: ir.Value) -> str | None:
        """Return why this input of a node holds no weight, or None where it holds one."""
        operator = find(node, self._opsets)
        if operator is not None and port in operator.statistics_ports:
            return f"statistics of {describe(node)}"
        if operator is None or port not in _ports(node, operator):
            return f"{describe(node)} takes no weight there"
        return self._judge.refusal(node, port, value)

    def _enter(self, graph: ir.Graph) -> None:
        """Find what no run changes: initializers, and what is computed from them alone."""
        still = self._still
        still.update(id(v) for v in graph.initializers.values())
        for node in graph:
            inner = subgraphs(node)
            for body in inner:
                self._enter(body)
            if inner or node.op_type in _RANDOM:
                continue
            reads = [v for v in node.inputs if v is not None]
            if _is_constant(node) or (reads and all(id(v) in still for v in reads)):
                still.update(id(v) for v in node.outputs)


def _ports(node: ir.Node, operator: Operator) -> Sequence[int]:
    """Return the inputs that can hold weights: of any number of inputs, all."""
    if node.op_type in {"Concat", "Sum", "Mean"}:
        return range(len(node.inputs))
    return operator.weight_ports
