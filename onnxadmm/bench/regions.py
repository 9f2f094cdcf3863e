"""Which nodes of a model a node of ONNX Runtime's optimised graph stands for.

ONNX Runtime fuses nodes, folds constants, and puts copies between memory layouts. What survives are the
names of tensors, and of nodes with a suffix. So each node of the optimised graph is given the tensor of the
source that it computes, and stands for all source nodes between that one and the tensors it reads.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

# What one would call the layer, among the nodes that were fused into one.
WEIGHTED = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "Einsum",
        "LSTM",
        "GRU",
        "RNN",
        "Attention",
        "MultiHeadAttention",
        "ConvInteger",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "FusedConv",
        "FusedMatMul",
        "MatMulNBits",
    }
)
# What is fused into the layer before it, where only that layer's name survives.
FOLLOWS = frozenset(
    {
        "Relu",
        "Clip",
        "LeakyRelu",
        "Sigmoid",
        "Tanh",
        "HardSigmoid",
        "HardSwish",
        "Elu",
        "Selu",
        "Celu",
        "Gelu",
        "QuickGelu",
        "Swish",
        "Mish",
        "PRelu",
        "BatchNormalization",
        "QuantizeLinear",
    }
)
# What only changes how numbers are written.
ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
LAYOUT = frozenset({"ReorderInput", "ReorderOutput", "Transpose"})
RESIDUAL = frozenset({"Add", "Sum"})
_CONV_WITH_SUM = 4
_SUFFIX = re.compile(r"(_token_\d+|_nchwc|/\w+Fusion/?)$")


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a graph: its name, its operator, and the tensors it reads and writes."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Region:
    """Nodes of the source, and those of the optimised graph that compute them.

    Attributes:
        source: In the source's order; empty for what ONNX Runtime put in.
        optimized: In the optimised graph's order.
    """

    source: tuple[Node, ...]
    optimized: tuple[Node, ...]

    @property
    def layer(self) -> str:
        """What to call it: its first node with weights, else its last one that computes."""
        nodes = self.source or self.optimized
        weighted = [n for n in nodes if n.operator in WEIGHTED]
        computing = [n for n in nodes if n.operator not in ROUNDING]
        return (weighted[0] if weighted else [*nodes, *computing][-1]).name

    @property
    def parts(self) -> list[str]:
        """The operators of the source, constants left out."""
        return [n.operator for n in self.source if n.operator != "Constant"]

    @property
    def into(self) -> list[str]:
        """The operators that compute it, without the copies to another layout that were put in."""
        there = {n.operator for n in self.source}
        return [n.operator for n in self.optimized if n.operator not in LAYOUT - there]


def regions(source: Sequence[Node], optimized: Sequence[Node]) -> list[Region]:
    """Match two graphs, both in topological order.

    Every node of the optimised graph is in exactly one region, a node of the source in at most one:
    those whose result is a constant are in none.

    Args:
        source: The model as it was handed to ONNX Runtime.
        optimized: The graph that runs.
    """
    makers = {t: n for n in source for t in n.outputs if t}
    ends = _ends(source, optimized, makers)
    _join_helpers(optimized, ends)
    members: dict[str, list[Node]] = {}
    for node in optimized:
        members.setdefault(ends[node.name], []).append(node)
    order = {n.name: i for i, n in enumerate(source)}
    claimed: set[str] = set()
    found: list[Region] = []
    for end, nodes in members.items():
        read = {t for n in nodes for t in n.inputs}
        mine = _between(end, (read, members), makers, claimed)
        claimed |= {n.name for n in mine}
        mine.sort(key=lambda n: order[n.name])
        found.append(Region(tuple(mine), tuple(nodes)))
    return found


def _ends(
    source: Sequence[Node], optimized: Sequence[Node], makers: Mapping[str, Node]
) -> dict[str, str]:
    """Return node of the optimised graph -> the tensor of the source that it computes, where one is known."""
    by_name = {n.name: n for n in source}
    readers: dict[str, list[Node]] = {}
    for node in source:
        for tensor in node.inputs:
            readers.setdefault(tensor, []).append(node)
    ends: dict[str, str] = {}
    for node in optimized:
        known = [t for t in node.outputs if t in makers]
        stem = _stem(node.name)
        if known:
            ends[node.name] = known[-1]
        elif stem in makers and node.operator == "Conv" and len(node.inputs) == _CONV_WITH_SUM:
            # The fourth is added to the result: a residual, under the convolution's own name.
            ends[node.name] = _with_followers(makers[stem], readers, FOLLOWS | RESIDUAL)
        elif stem in makers:
            ends[node.name] = stem
        elif stem in by_name:
            ends[node.name] = _with_followers(by_name[stem], readers)
    return ends


def _stem(name: str) -> str:
    """Return a name without what ONNX Runtime's optimisers put around it."""
    name = name.removeprefix("fused ")
    while (shorter := _SUFFIX.sub("", name)) != name:
        name = shorter
    return name


def _with_followers(
    node: Node, readers: Mapping[str, Sequence[Node]], following: frozenset[str] = FOLLOWS
) -> str:
    """Return the tensor at the end of a node and the activations and rounding that alone follow it."""
    while True:
        next_ones = readers.get(node.outputs[0], [])
        if len(next_ones) != 1 or next_ones[0].operator not in following:
            return node.outputs[0]
        (node,) = next_ones


def _join_helpers(optimized: Sequence[Node], ends: dict[str, str]) -> None:
    """Give nodes without an end, mostly copies to another layout, that of who reads them; in place."""
    readers: dict[str, Node] = {}
    makers: dict[str, Node] = {}
    for node in optimized:
        makers |= dict.fromkeys(node.outputs, node)
        for tensor in node.inputs:
            readers.setdefault(tensor, node)
    for node in reversed(optimized):
        if node.name not in ends:
            reader = next((readers[t] for t in node.outputs if t in readers), None)
            if reader is not None and reader.name in ends:
                ends[node.name] = ends[reader.name]
    for node in optimized:
        if node.name not in ends:
            maker = next((makers[t] for t in node.inputs if t in makers), None)
            # A name of its own: no tensor is called so.
            ends[node.name] = ends.get(maker.name, "") if maker else f"\0{node.name}"


def _between(
    end: str,
    borders: Sequence[Collection[str]],
    makers: Mapping[str, Node],
    claimed: set[str],
) -> list[Node]:
    """Return the source nodes that compute `end` from the borders, constants and graph inputs."""
    found: dict[str, Node] = {}
    waiting = [end]
    while waiting:
        tensor = waiting.pop()
        node = makers.get(tensor)
        if node is None or node.name in found or node.name in claimed:
            continue
        if tensor != end and any(tensor in border for border in borders):
            continue
        found[node.name] = node
        waiting += [t for t in node.inputs if t]
    return list(found.values())
