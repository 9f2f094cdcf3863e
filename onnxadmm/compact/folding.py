"""Channels that do nothing: constant ones move into the next bias, unread ones go, until none is left.

Cutting channels leaves others without use: a filter whose inputs are gone makes a constant, a channel whose
every reader is gone changes nothing ("unused path removal", StructADMM's journal version). A model that was
pruned by zero filters alone arrives with such channels. Where what a channel adds to its readers is one
number an output, that number goes into the reader's bias and the channel can be cut; where it isn't (a constant
that a padded border doesn't hold, a reader without a bias to take it), the channel stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.channels import ChannelClass, Labelling
from onnxadmm.compact.constancy import (
    MOVING,
    POINTWISE,
    POOLING,
    ZERO_KEEPING,
    Known,
    constant_channels,
    content_of,
    contributions,
    is_standard,
    labels_of,
    read_layer,
    total_contributions,
)
from onnxadmm.compact.masks import alive_mask
from onnxadmm.graph import Probe, constant_of
from onnxadmm.graph.constants import set_constant
from onnxadmm.graph.holding import fresh, hold

Array = np.ndarray[Any, Any]

_PASSING = POINTWISE | MOVING | POOLING | ZERO_KEEPING | {"BatchNormalization", "Shape", "Constant"}


@dataclass(frozen=True)
class Folded:
    """A graph whose idle channels can be cut.

    Attributes:
        model: The graph, with the constants in the biases. The same object where there was nothing to fold.
        labelling: Its labels: biases that were added have some too.
        probe: Its shapes.
        idle: The labels that can go beside those that go anyway.
    """

    model: ir.Model
    labelling: Labelling
    probe: Probe
    idle: set[int]


def fold_idle(
    model: ir.Model,
    labelling: Labelling,
    probe: Probe,
    classes: Sequence[ChannelClass],
    dead: Iterable[int],
    *,
    steps: Mapping[str, tuple[int, int]],
) -> Folded:
    """Find channels that do nothing once the dead ones are gone, and fold what they hold.

    With the dead channels masked, the result computes what the model computed, with the idle ones masked
    as well.

    Args:
        model: The graph with its final weights; it isn't changed.
        labelling: Its labels.
        probe: Its shapes.
        classes: Its classes; a fixed one loses nothing.
        dead: The labels that go.
        steps: Class name -> (kept counts are multiples of this, and at least this many).
    """
    work = _Folding(model, labelling, probe, set(dead))
    while True:
        chosen = _choose(classes, work.idle(), work.dead, steps)
        if not chosen:
            break
        work.fold(chosen)
    return Folded(work.model, work.labelling, work.probe, work.dead - set(dead))


def _choose(
    classes: Sequence[ChannelClass],
    idle: set[int],
    dead: set[int],
    steps: Mapping[str, tuple[int, int]],
) -> set[int]:
    """Choose which idle channels go: as many as leave every class a count that it may have."""
    chosen: set[int] = set()
    for c in classes:
        free = [x for x in c.labels.tolist() if x in idle]
        if c.fixed or not free:
            continue
        alive = sum(x not in dead for x in c.labels.tolist())
        step, least = steps.get(c.name, (1, 1))
        used = alive - len(free)
        stay = min(alive, max(-(-used // step) * step, least, 1))
        chosen.update(free[: alive - stay])
    return chosen


@dataclass(frozen=True)
class _Added:
    """What the channels that a layer reads add to its outputs.

    Attributes:
        labels: The channels' labels [inputs].
        busy: Of which it isn't one number that a bias can take.
        filled: Of which it isn't zero.
        columns: The layer's weights [outputs, inputs, positions].
        numbers: What the channels hold [1, inputs]; None where nothing is known.
        bordered: Whether some outputs see zeros of a padding instead.
    """

    labels: Array
    busy: Array
    filled: Array
    columns: Array
    numbers: Array | None
    bordered: bool

    def shift(self, taken: Array) -> Array:
        """Return what some channels add together [outputs]."""
        if self.numbers is None:
            return np.zeros(len(self.columns))
        columns, numbers = self.columns[:, taken], self.numbers[:, taken]
        return total_contributions(columns, numbers, bordered=self.bordered)


class _Masked(Mapping[str, Array]):
    """Held tensors with dead channels set to zero; made when they are asked for, and not kept."""

    def __init__(self, model: ir.Model, labelling: Labelling, gone: Array) -> None:
        self._axes, self._gone = labelling.axes, gone
        carrying = set(labelling.weights)
        self._held = {v.name or "": v for v in ops.held_tensors(model) if v.name in carrying}

    def __getitem__(self, name: str) -> Array:
        content = constant_of(self._held[name])
        if content is None:
            raise KeyError(name)
        mask = alive_mask(self._axes[name], self._gone)
        return content if mask.all() else np.where(mask, content, np.zeros((), content.dtype))

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


class _Folding:
    """The graph on its way: what is dead so far, and what the biases took up."""

    def __init__(self, model: ir.Model, labelling: Labelling, probe: Probe, dead: set[int]) -> None:
        self.model, self.labelling, self.probe, self.dead = model, labelling, probe, dead
        self._original = model

    def idle(self) -> set[int]:
        """Return the labels that nobody needs."""
        weights = self._masked()
        known = constant_channels(self.model, self.labelling, self.probe, weights)
        busy = set(self.labelling.fixed) | self.dead
        for node in self.model.graph:
            if not (is_standard(node) and node.op_type in _PASSING and self._passes(node)):
                busy |= self._needed(node, weights, known)
        return set(self.labelling.producers) - busy

    def fold(self, chosen: set[int]) -> None:
        """Move what the chosen channels hold into the biases of their readers, and count them as dead."""
        weights = self._masked()
        known = constant_channels(self.model, self.labelling, self.probe, weights)
        shifts: list[tuple[str, Array]] = []
        for node in self.model.graph:
            added = self._added(node, weights, known)
            if added is None:
                continue
            taken = np.isin(added.labels, list(chosen)) & added.filled
            if taken.any():
                shifts.append((node.outputs[0].name or "", added.shift(taken)))
        if shifts and self.model is self._original:
            self.model = self.model.clone()
            self.labelling = replace(
                self.labelling,
                axes=dict(self.labelling.axes),
                weights=list(self.labelling.weights),
            )
            self.probe = replace(self.probe, shapes=dict(self.probe.shapes))
        made = {v.name: node for node in self.model.graph for v in node.outputs}
        for name, shift in shifts:
            self._shift(made[name], shift)
        self.dead = self.dead | chosen

    def _masked(self) -> Mapping[str, Array]:
        """Return the held tensors that dead channels pass through, with those set to zero."""
        return _Masked(self.model, self.labelling, np.array(sorted(self.dead), np.int64))

    def _passes(self, node: ir.Node) -> bool:
        """Whether the node only hands channels on: what a reduction takes in, it uses."""
        if not node.op_type.startswith("Reduce"):
            return True
        made = {x for v in node.outputs for x in labels_of(self.labelling, v)}
        return all(labels_of(self.labelling, v) <= made for v in node.inputs)

    def _needed(self, node: ir.Node, weights: Mapping[str, Array], known: Known) -> set[int]:
        """Return the labels that this node needs: all that it reads, or a layer's busy columns."""
        added = self._added(node, weights, known)
        if added is None:
            return {x for v in node.inputs for x in labels_of(self.labelling, v)}
        return set(added.labels[added.busy].tolist())

    def _added(self, node: ir.Node, weights: Mapping[str, Array], known: Known) -> _Added | None:
        """Return what each channel that a layer reads adds to its outputs.

        None for a node that is no layer with a held weight. A depthwise convolution's channels go on as its outputs:
        nothing is read.
        """
        if not (is_standard(node) and node.op_type in ("Conv", "Gemm", "MatMul")):
            return None
        x, weight = node.inputs[0], node.inputs[1]
        held = content_of(weight, weights)
        if x is None or held is None or content_of(x, weights) is not None:
            return None
        layer = read_layer(node, held, self.probe)
        if layer is None:
            return None
        columns, groups, axis, bordered = layer
        labels = self.labelling.axes[x.name or ""][axis]
        if groups > 1 and columns.shape[1] == 1:
            return _Added(
                labels[:0], np.zeros(0, bool), np.zeros(0, bool), columns[:, :0], None, False
            )
        numbers = known.get(x.name or "", {})
        if not numbers:
            # Nothing is known of the input: a channel is idle where its whole column is empty.
            used = np.asarray(columns.any(axis=(0, 2)))
            return _Added(labels[: columns.shape[1]], used, used, columns, None, bordered)
        # A label stands at the same place of every group: what it adds, it adds to each group's filters.
        labels = labels[: columns.shape[1]]
        own = np.array([[numbers.get(n, np.nan) for n in labels.tolist()]])
        busy, filled = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
        for amounts in contributions(columns, own, bordered=bordered):
            busy |= np.isnan(amounts).any(axis=0)
            filled |= (amounts != 0).any(axis=0)
        if self._bias_port(node) is None:
            busy = filled
        return _Added(labels, busy, filled, columns, own, bordered)

    def _bias_port(self, node: ir.Node) -> tuple[ir.Node, int] | None:
        """Return which node's input takes a shift of this layer's outputs, if one does."""
        if node.op_type in ("Conv", "Gemm"):
            bias = node.inputs[2] if len(node.inputs) > 2 else None  # noqa: PLR2004
            return (node, 2) if bias is None or constant_of(bias) is not None else None
        users = list(node.outputs[0].uses())
        if len(users) != 1 or node.outputs[0].is_graph_output():
            return None
        user, port = users[0]
        other = user.inputs[1 - port] if user.op_type == "Add" and is_standard(user) else None
        content = constant_of(other)
        width = self.probe.shapes[node.outputs[0].name or ""][-1]
        if content is None or content.size != width or content.shape[-1] != width:
            return None
        return user, 1 - port

    def _shift(self, node: ir.Node, shift: Array) -> None:
        """Add numbers to the outputs of a layer, in a bias of its own."""
        place = self._bias_port(node)
        assert place is not None
        reader, port = place
        old = reader.inputs[port] if port < len(reader.inputs) else None
        held = constant_of(old)
        beta = 1.0
        if node.op_type == "Gemm" and "beta" in node.attributes:
            beta = node.attributes["beta"].as_float()
        weight = content_of(node.inputs[1], {})
        assert weight is not None
        if held is None or not beta:
            content, beta = shift, 1.0
            node.attributes.pop("beta", None)
        else:
            content = np.asarray(held, np.float64)
            if content.size == 1:
                content = np.broadcast_to(content.reshape(-1), shift.shape)
            content = content + (shift / beta).reshape(content.shape)
        content = content.astype(weight.dtype)
        own = old is not None and held is not None and held.shape == content.shape
        if own and old is not None and len(list(old.uses())) == 1 and not old.is_graph_input():
            set_constant(old, content)
            return
        self._give_bias(reader, port, content, node.outputs[0])

    def _give_bias(self, reader: ir.Node, port: int, content: Array, out: ir.Value) -> None:
        """Register a new initializer as a reader's input, labelled as the layer's output."""
        taken = set(self.probe.shapes) | set(self.model.graph.initializers)
        name = fresh(f"{out.name}_bias", taken)
        value = hold(self.model.graph, name, content)
        if port >= len(reader.inputs):
            reader.resize_inputs(port + 1)
        reader.replace_input_with(port, value)
        axes = self.labelling.axes[out.name or ""]
        own = axes[1] if reader.op_type == "Conv" else axes[-1]
        blank = [ops.unlabelled(n) for n in content.shape]
        self.labelling.axes[name] = [*blank[:-1], own]
        self.labelling.weights.append(name)
        self.probe.shapes[name] = content.shape
