"""Labels over a whole graph: which channels must live or die together, and which can't go at all.

A label names a channel: one index of one axis that could be removed. Every float tensor that the graph
holds starts with a label of its own for each index of each axis; the operators' rules (onnxadmm.ops) make
labels that meet equal, so that what remains distinct at the end are the coupled channels. Unknown is always
safe: a label that reaches something without a rule becomes fixed, and keeps the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.channels.shuffles import Shuffle, find_shuffles
from onnxadmm.graph import Probe, constant_of
from onnxadmm.ops import Labels, unlabelled

Array = np.ndarray[Any, Any]


@dataclass
class Labelling:
    """The labels of every tensor of a graph, after all rules have spoken.

    Attributes:
        axes: Value name -> labels of each axis; equal labels are coupled, 0 can't be removed.
        weights: Names of the float tensors that the graph holds and that take part.
        unlearnt: Those of them that no training changes: a BatchNormalization's mean and variance, masks, tables.
        fixed: Label -> why it can't be removed.
        producers: Label -> names of the layers that make this channel.
        renormalised: Label -> the statistic that is taken over the live channels once some went.
        live: Names of the first outputs of nodes that the reference runs on live channels alone.
        dtypes: Value name -> element type as numpy names it.
        shuffles: Name of a value -> the shuffle that it is the result of; labels pass it one by one.
        loose: Value name -> axes that carry labels and whose length depends on the inputs all the same.
        settled: Value name -> axes that no input changes the length of, as shape inference tells.
        uses: Name of a node's first output -> name of a value that it reads -> labels that hold for this
            reader alone, for values that are the same all over some axes.
    """

    axes: dict[str, list[Labels]]
    weights: list[str]
    unlearnt: set[str]
    fixed: dict[int, str]
    producers: dict[int, list[str]] = field(default_factory=dict)
    renormalised: dict[int, str] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)
    dtypes: dict[str, str] = field(default_factory=dict)
    shuffles: dict[str, Shuffle] = field(default_factory=dict)
    loose: dict[str, set[int]] = field(default_factory=dict)
    settled: Mapping[str, Collection[int]] = field(default_factory=dict)
    uses: dict[str, dict[str, list[Labels]]] = field(default_factory=dict)


def label(model: ir.Model, probe: Probe, *, whole_heads: bool = False) -> Labelling:
    """Run every node's label rule in order.

    Args:
        model: The graph; it isn't changed.
        probe: Concrete shapes of its values.
        whole_heads: Where the last axis is split into heads and their elements, couple the elements of a head
            rather than those at one place of all heads.
    """
    scope = _Scope(model, probe, whole_heads=whole_heads)
    for node in model.graph:
        scope.visit(node)
    for output in model.graph.outputs:
        for labels in scope.axes(output):
            scope.fix(labels, f"reaches the graph output {output.name!r}")
    return scope.result(ops.weights(model).keys())


class _Scope:
    """The union-find over labels, and what rules may ask (`ops.LabelScope`)."""

    def __init__(self, model: ir.Model, probe: Probe, *, whole_heads: bool = False) -> None:
        self._whole_heads = whole_heads
        self._opsets = dict(model.opset_imports)
        self._probe = probe
        self._parent = [0]
        self._reason: dict[int, str] = {}
        self._axes: dict[str, list[Labels]] = {}
        self._weights: list[str] = []
        self._made: list[tuple[str, Labels]] = []
        self._renormalised: list[tuple[str, Labels]] = []
        self._live: set[str] = set()
        self._shuffles = find_shuffles(model, probe)
        self._inside = {name for s in self._shuffles.values() for name in s.between}
        # Labels that mean nothing yet: their indices are all alike.
        self._free: set[int] = set()
        self._alike: dict[str, set[int]] = {}
        self._uses: dict[str, dict[str, list[Labels]]] = {}
        self._loose: dict[str, set[int]] = {}
        self._node: ir.Node | None = None
        self._origins: dict[tuple[str, int], str] = {}

    # --- what rules ask

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        # A sequence or an optional has none: no channels are followed through it.
        return self._probe.shapes.get(value.name or "", ())

    def constant(self, value: ir.Value | None) -> Array | None:
        if value is None:
            return None
        held = constant_of(value)
        return self._probe.constants.get(value.name or "") if held is None else held

    def axes(self, value: ir.Value) -> list[Labels]:
        name = value.name or ""
        if name not in self._axes:
            self._axes[name] = self._first_labels(value)
        return self._used(value) if name in self._alike else self._axes[name]

    def settled(self, value: ir.Value, axis: int) -> bool:
        name = value.name or ""
        # A labelled axis is as long as a weight's, unless it was merged with others.
        return axis in self._probe.settled.get(name, ()) or is_settled(
            self.axes(value)[axis], axis, self._loose.get(name, ())
        )

    def alike(self, size: int) -> Labels:
        if size < 2:  # noqa: PLR2004
            return unlabelled(size)
        labels = self._fresh(size)
        self._free.update(labels.tolist())
        return labels

    def assign(self, value: ir.Value, axes: list[Labels]) -> None:
        # Outputs of a node that were left out have no name and no reader.
        if value.name:
            self._axes[value.name] = axes

    def unite(self, a: Labels, b: Labels, reason: str) -> None:
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            left, right = self._root(x), self._root(y)
            if left == right:
                continue
            self._free.discard(left)
            self._free.discard(right)
            if left == 0 or right == 0:
                if (left or right) not in self._reason:
                    self._reason[left or right] = reason + self._met(b if left else a)
                continue
            low, high = min(left, right), max(left, right)
            self._parent[high] = low
            why = self._reason.pop(high, None)
            if why is not None:
                self._reason.setdefault(low, why)

    def _met(self, bare: Labels) -> str:
        """Say where the axis without channels comes from that the node at hand lays on one with channels."""
        node, size = self._node, len(bare)
        if node is None or bare.any():
            return ""
        # Rules hand on the arrays that values have, or views of them.
        key = _key(node), bare.ctypes.data
        if key not in self._origins:
            read = (v for v in node.inputs if v is not None and v.name in self._axes)
            held = (
                v for v in read for x in self._axes[v.name or ""] if np.may_share_memory(x, bare)
            )
            value = next(held, None)
            self._origins[key] = "" if value is None else f", and {self._origin(value, size)}"
        return self._origins[key]

    def _origin(self, value: ir.Value, size: int) -> str:
        """Say who gave a value an axis of this length without channels."""
        node = value.producer()
        while node is not None:
            before = next((v for v in node.inputs if self._is_bare(v, size)), None)
            if before is None:
                return f"{ops.describe(node)} gives it an axis without channels"
            value, node = before, before.producer()
        return f"the graph input {value.name!r}, whose size stays"

    def _is_bare(self, value: ir.Value | None, size: int) -> bool:
        if value is None or constant_of(value) is not None:
            return False
        axes = self._axes.get(value.name or "", [])
        return any(len(labels) == size and not labels.any() for labels in axes)

    def fix(self, labels: Labels, reason: str) -> None:
        for x in set(labels.tolist()):
            root = self._root(x)
            if root:
                self._free.discard(root)
                self._reason.setdefault(root, reason)

    def renormalise(self, node: ir.Node, labels: Labels, reason: str) -> None:
        if labels.any():
            self._renormalised.append((reason, labels))
            self.take_live(node)

    def take_live(self, node: ir.Node) -> None:
        self._live.add(next(v.name for v in node.outputs if v.name))

    def replaced(self, node: ir.Node) -> bool:
        name = node.outputs[0].name
        return name in self._inside or name in self._shuffles

    def produce(self, node: ir.Node, labels: Labels) -> None:
        self._made.append((node.name or node.outputs[0].name or "", labels))

    def move(self, node: ir.Node, run: Callable[..., Any]) -> None:
        inputs = [v for v in node.inputs if v is not None]
        shapes = [self.shape(v) for v in node.outputs]
        results: list[list[Labels]] = [[unlabelled(n) for n in s] for s in shapes]
        blank = [np.zeros(self.shape(v), np.int64) for v in inputs]
        labelled = [
            (position, axis, labels)
            for position, value in enumerate(inputs)
            for axis, labels in enumerate(self.axes(value))
            if labels.any()
        ]
        # What is alike all over gives way to channels.
        for position, axis, labels in sorted(labelled, key=lambda entry: self._all_free(entry[2])):
            shape = self.shape(inputs[position])
            spread = [1] * len(shape)
            spread[axis] = -1
            arrays = list(blank)
            arrays[position] = np.broadcast_to(labels.reshape(spread), shape)
            moved = run(*arrays)
            outputs = moved if isinstance(moved, tuple) else (moved,)
            for result, output in zip(results, outputs, strict=True):
                if not self._all_free(labels):
                    self._read_off(node, result, output, last=axis == len(shape) - 1)
                elif len(varying := _varying(output)) == 1 and not result[varying[0]].any():
                    self._read_off(node, result, output, last=False)
        for value, result in zip(node.outputs, results, strict=True):
            self.assign(value, result)

    # --- the walk

    def visit(self, node: ir.Node) -> None:
        self._node = node
        self._apply_rule(node)
        self._node = None
        self._loosen(node)
        for value in node.outputs:
            axes = self._axes.get(value.name or "", [])
            alike = {a for a, labels in enumerate(axes) if self._all_free(labels)}
            if alike:
                self._alike[value.name or ""] = alike

    def _loosen(self, node: ir.Node) -> None:
        """Note which labelled axes of the outputs are of other lengths in other runs.

        Where a Reshape leaves the length of an axis open, a batch may have been merged into it; what has
        labels of such an axis may have been made from it.
        """
        standard = node.domain in ("", "ai.onnx")
        merges = standard and node.op_type in ("Reshape", "Flatten")
        if not merges and not self._loose:
            return
        read = {v for v in node.inputs if v is not None}
        if standard and node.op_type in ("ConstantOfShape", "Expand"):
            read |= {size.value for v in node.inputs for size in ops.sizes_in(v, self)}
        found = [
            self._axes[v.name or ""][axis]
            for v in read
            for axis in self._loose.get(v.name or "", ())
        ]
        if not found and not merges:
            return
        suspect = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
        for value in node.outputs:
            for axis, labels in enumerate(self._axes.get(value.name or "", [])):
                derived = bool(np.isin(labels, suspect[suspect > 0]).any())
                if derived or (merges and labels.any() and not ops.is_sized(node, axis, self)):
                    self._loose.setdefault(value.name or "", set()).add(axis)

    def _all_free(self, labels: Labels) -> bool:
        """Whether nothing is known of the channels of an axis but that they are all alike."""
        return bool(self._free) and len(labels) > 1 and self._free.issuperset(labels.tolist())

    def _used(self, value: ir.Value) -> list[Labels]:
        """Return the labels of a value that is the same all over some axes, for the reader at hand.

        Each reader takes as much of such an axis as it needs: what one of them meets is no other's concern.
        """
        name, node = value.name or "", self._node
        alike, axes = self._alike[name], self._axes[name]
        if node is None or value not in node.inputs:
            # Its own length stays as it is.
            return [unlabelled(len(x)) if a in alike else x for a, x in enumerate(axes)]
        used = self._uses.setdefault(_key(node), {})
        if name not in used:
            used[name] = [self.alike(len(x)) if a in alike else x for a, x in enumerate(axes)]
        return used[name]

    def _apply_rule(self, node: ir.Node) -> None:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            self.axes(node.outputs[0])
            return
        name = node.outputs[0].name if node.outputs else None
        if name in self._inside:
            self._forget_plain_shuffle(name)
        if name in self._inside:
            self.assign(node.outputs[0], [unlabelled(n) for n in self.shape(node.outputs[0])])
            return
        if name in self._shuffles:
            shuffle = self._shuffles[name]
            self._meet_targets(shuffle)
            axes = list(self.axes(shuffle.source))
            axes[shuffle.axis] = axes[shuffle.axis][shuffle.order]
            self.assign(node.outputs[0], axes)
            return
        captured = list(_captured(node))
        operator = None if captured else ops.find(node, self._opsets)
        if operator is None:
            what = "runs a graph of its own" if captured else "no rule for this operator"
            reason = f"{ops.describe(node)}: {what}"
            for value in captured:
                for labels in self.axes(value):
                    self.fix(labels, reason)
            ops.fix_all(node, self, reason)
            return
        operator.labels(node, self)

    def _forget_plain_shuffle(self, name: str | None) -> None:
        """Take the nodes of a shuffle for what they are where no channels lie on its axis."""
        result = next(n for n, s in self._shuffles.items() if name in s.between)
        shuffle = self._shuffles[result]
        if not self.axes(shuffle.source)[shuffle.axis].any():
            del self._shuffles[result]
            self._inside -= set(shuffle.between)

    def _meet_targets(self, shuffle: Shuffle) -> None:
        """Couple a shuffled axis with the sizes that the shuffle's shapes are computed from.

        Those shapes go when the shuffle loses channels, and must not change when it doesn't.
        """
        labels = self.axes(shuffle.source)[shuffle.axis]
        for node in shuffle.reshapes:
            for size in ops.sizes_in(node.inputs[1], self):
                if self.axes(size.value)[size.axis].any():
                    ops.meet_size(node, labels, size, self)

    def result(self, learnt: AbstractSet[str]) -> Labelling:
        """Return the labels; `learnt` are the names of the weights."""
        roots = np.array([self._root(i) for i in range(len(self._parent))], np.int64)
        producers: dict[int, list[str]] = {}
        for layer, labels in self._made:
            for root in dict.fromkeys(roots[labels].tolist()):
                made = producers.setdefault(root, [])
                if layer not in made:
                    made.append(layer)
        producers.pop(0, None)
        renormalised: dict[int, str] = {}
        for reason, labels in self._renormalised:
            for root in set(roots[labels].tolist()) - {0}:
                renormalised.setdefault(root, reason)
        for name, alike in self._alike.items():
            axes = self._axes[name]
            self._axes[name] = [unlabelled(len(x)) if a in alike else x for a, x in enumerate(axes)]
        return Labelling(
            axes={name: [roots[a] for a in axes] for name, axes in self._axes.items()},
            weights=self._weights,
            unlearnt=set(self._weights) - learnt,
            fixed=dict(self._reason),
            producers=producers,
            renormalised=renormalised,
            live=self._live,
            dtypes=self._probe.dtypes,
            shuffles=self._shuffles,
            loose=self._loose,
            settled=self._probe.settled,
            uses={
                node: {name: [roots[a] for a in axes] for name, axes in used.items()}
                for node, used in self._uses.items()
            },
        )

    def _first_labels(self, value: ir.Value) -> list[Labels]:
        """Label a tensor that nothing produced: a weight gets fresh labels, an input none."""
        shape = self.shape(value)
        content = constant_of(value)
        if content is None or not np.issubdtype(content.dtype, np.floating):
            return [unlabelled(n) for n in shape]
        self._weights.append(value.name or "")
        return [self._fresh(n) if n > 1 else unlabelled(n) for n in shape]

    def _fresh(self, size: int) -> Labels:
        first = len(self._parent)
        self._parent.extend(range(first, first + size))
        return np.arange(first, first + size, dtype=np.int64)

    def _root(self, x: int) -> int:
        parent = self._parent
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    def _read_off(self, node: ir.Node, result: list[Labels], moved: Array, *, last: bool) -> None:
        """Write the labels of a moved tensor into the axis that they vary along.

        Args:
            node: What moved it.
            result: The labels so far, axis by axis.
            moved: The tensor of labels.
            last: Whether they were on the last axis, where heads lie behind each other.
        """
        varying = _varying(moved)
        if not varying:
            # One label all over: it came down to single elements.
            self.fix(
                moved.reshape(-1)[:1], f"{ops.describe(node)} spreads this channel over all axes"
            )
            return
        # An axis that was split into several: keep the longest part, couple across the others.
        axis = max(varying, key=lambda a: moved.shape[a])
        if self._whole_heads and last and len(varying) > 1:
            axis = varying[-2]
        # Along the other axes it is the same all over: one place of each is enough.
        place = tuple(slice(None) if a in varying else slice(1) for a in range(moved.ndim))
        rows = np.moveaxis(moved[place], axis, 0).reshape(moved.shape[axis], -1)
        if len(varying) > 1:
            for column in np.unique(rows, axis=1).T[1:]:
                self.unite(rows[:, 0], column, f"{ops.describe(node)} splits these channels")
        if result[axis].any():
            # Two labelled axes merged into one: an index would need two labels.
            self.fix(rows[:, 0], f"{ops.describe(node)} merges these channels with others")
            return
        result[axis] = rows[:, 0].astype(np.int64)


def is_settled(labels: Labels, axis: int, loose: Collection[int]) -> bool:
    """Whether an axis carries labels alone, and is of one length in every run."""
    return bool(labels.size) and bool(labels.all()) and axis not in loose


def _varying(moved: Array) -> list[int]:
    """Return the axes along which a tensor isn't the same all over."""
    return [
        axis
        for axis, size in enumerate(moved.shape)
        if size > 1 and (moved != moved.take([0], axis)).any()
    ]


def _key(node: ir.Node) -> str:
    return next((v.name for v in node.outputs if v.name), "")


def _captured(node: ir.Node) -> Iterable[ir.Value]:
    """Yield the outer values that the node's subgraphs read."""
    for attribute in node.attributes.values():
        graphs = []
        if attribute.type == ir.AttributeType.GRAPH:
            graphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs = list(attribute.as_graphs())
        for graph in graphs:
            for inner in graph.all_nodes():
                for value in inner.inputs:
                    if value is not None and value.graph is not None and value.graph is node.graph:
                        yield value
            for output in graph.outputs:
                if output.graph is not None and output.graph is node.graph:
                    yield output
