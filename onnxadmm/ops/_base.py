"""What an operator is to onnxadmm, and where its definitions are found.

One class an operator holds all that is known of it, side by side:

    labels   how channels pass through it             read by onnxadmm.channels
    resize   what must change when channels go        read by onnxadmm.compact
    build    the torch calls that compute it          read by onnxadmm.modules
    macs     the multiply-accumulates that it costs   read by onnxadmm.compact and the report

A definition is found by (domain, operator, since_version), as the ONNX standard defines operators, not by
the model's opset: `Relu` at opset 17 is `Relu` since version 14.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx.defs
import onnx_ir as ir

from onnxadmm.errors import UnsupportedError, one_line

Labels = np.ndarray[Any, np.dtype[np.int64]]
"""One label an index of an axis; 0 is no label: an index that can't be removed."""

Shapes = Mapping[str, tuple[int, ...]]
"""Concrete shape of each named value."""

DEFAULT_DOMAIN = ""


class LabelScope(Protocol):
    """What a label rule may ask for and say. Implemented by `onnxadmm.channels`."""

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Return the concrete shape of the value."""

    def constant(self, value: ir.Value | None) -> np.ndarray[Any, Any] | None:
        """Return the value's content where it is known before the model runs."""

    def axes(self, value: ir.Value) -> list[Labels]:
        """Return the labels of each axis of the value, axis by axis."""

    def settled(self, value: ir.Value, axis: int) -> bool:
        """Return whether the axis has the same length in every run, be it one that carries labels alone."""

    def alike(self, size: int) -> Labels:
        """Return labels for an axis along which a value is the same all over, and of this length in every run.

        Each of its readers may take as much of it as it needs.
        """

    def assign(self, value: ir.Value, axes: list[Labels]) -> None:
        """Give an output its labels, axis by axis."""

    def unite(self, a: Labels, b: Labels, reason: str) -> None:
        """Make labels that meet equal; one that meets 0 becomes fixed, for this reason."""

    def fix(self, labels: Labels, reason: str) -> None:
        """Forbid that these channels are removed, and keep the reason."""

    def renormalise(self, node: ir.Node, labels: Labels, reason: str) -> None:
        """Say that the node's value depends on how many of these channels there are.

        They may go: the reference that a cut is proven against lets the node read the live ones alone.
        """

    def take_live(self, node: ir.Node) -> None:
        """Let the reference run this node on live channels alone; removed ones are 0 behind it.

        For what combines channels of computed tensors, where a removed one need not be 0.
        """

    def move(self, node: ir.Node, run: Callable[..., Any]) -> None:
        """Let `run` move label tensors as the node moves data, and read off the outputs' labels.

        `run` takes one array for each input that the node has and returns the outputs' arrays.
        """

    def replaced(self, node: ir.Node) -> bool:
        """Whether the node is part of a shuffle, which another node replaces when channels go."""

    def produce(self, node: ir.Node, labels: Labels) -> None:
        """Say that this node makes these channels: it is the layer that a user would name."""


class BuildScope(Protocol):
    """What a torch builder may ask for. Implemented by `onnxadmm.modules`."""

    def tensor(self, value: ir.Value | None) -> Any:
        """Return what stands for the value in the torch graph (None for an absent input)."""

    def constant(self, value: ir.Value | None) -> np.ndarray[Any, Any] | None:
        """Return the value's content where it is known before the model runs."""

    def rank(self, value: ir.Value) -> int:
        """Return the number of axes of the value."""

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Return a concrete shape of the value; symbolic axes hold what a probe saw."""

    def kind(self, value: ir.Value) -> ir.DataType:
        """Return the value's element type in the graph."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Add a call to the torch graph and return what stands for its result."""


class CutScope(Protocol):
    """What a resize rule may ask for. Implemented by `onnxadmm.compact`."""

    def opset(self) -> int:
        """Return the version of the standard's operators."""

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Return the concrete shape of the value before the cut."""

    def kept(self, value: ir.Value, axis: int) -> int:
        """Return how many indices of this axis stay."""

    def is_cut(self, value: ir.Value, axis: int) -> bool:
        """Return whether any index of this axis goes."""

    def alive(self, value: ir.Value, axis: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return a mask over the axis before the cut: whether each index stays."""

    def settled(self, value: ir.Value, axis: int) -> bool:
        """Return whether the axis had the same length in every run, be it one that carries labels alone."""

    def labels(self, value: ir.Value) -> list[Labels]:
        """Return the labels of each axis before the cut; none where nothing is known of the value."""

    def constant(self, value: ir.Value | None) -> np.ndarray[Any, Any] | None:
        """Return the value's content where the graph itself holds it."""

    def replace_constant(self, node: ir.Node, port: int, content: np.ndarray[Any, Any]) -> None:
        """Let the node read `content` at this input instead of what it read."""

    def write_numbers(self, node: ir.Node, port: int, numbers: Mapping[int, int]) -> None:
        """Let the node read these numbers at these places of an input [n], held or computed, and the rest as it was."""


class Operator:
    """All that is known of one operator. Subclasses declare facts and override what differs."""

    domain: ClassVar[str] = DEFAULT_DOMAIN
    op_type: ClassVar[str]
    versions: ClassVar[tuple[int, ...]]
    """Each since_version that this definition serves."""
    attributes: ClassVar[frozenset[str]] = frozenset()
    """The attributes that `build` honours; any other one is refused, never ignored."""
    weight_ports: ClassVar[tuple[int, ...]] = ()
    """Inputs that hold a weight when they hold a float constant."""
    straight_through: ClassVar[bool] = False
    """Whether outputs that are integers in the graph are floats in torch, so that gradients pass them."""
    statistics_ports: ClassVar[tuple[int, ...]] = ()
    """Inputs that hold measured statistics: cut with their channel, never trained or scored."""

    fixes: ClassVar[str] = ""
    """Why every channel that reaches it must stay, said after the node's name; empty where there is no rule."""

    def labels(self, node: ir.Node, scope: LabelScope) -> None:
        """Pass the channels of the inputs on to the outputs. By default nothing can be removed."""
        why = self.fixes or f": no rule says how channels pass through {self.op_type}"
        fix_all(node, scope, f"{describe(node)}{why}")

    def resize(self, node: ir.Node, scope: CutScope) -> None:
        """Mend the constants and attributes that held sizes, after channels went."""
        del node, scope

    def build(self, node: ir.Node, scope: BuildScope) -> Any:
        """Add the node to the torch graph and return what stands for its output, or a tuple.

        Raises:
            UnsupportedError: The node asks for something that the builder doesn't do.
        """
        del scope
        raise UnsupportedError(
            f"{describe(node)}: {self.op_type} can't be trained yet; use a spec without data or "
            "with `schedule: {epochs: 0, retrain: 0}`"
        )

    def macs(self, node: ir.Node, shapes: Shapes) -> int:
        """Return the multiply-accumulates of one run at these shapes; 0 for what only moves data."""
        del node, shapes
        return 0


_REGISTRY: dict[tuple[str, str, int], Operator] = {}


def register(operator: type[Operator]) -> type[Operator]:
    """Class decorator: enter an operator's definition; a second one for the same key raises."""
    for version in operator.versions:
        key = (operator.domain, operator.op_type, version)
        if key in _REGISTRY:
            raise ValueError(f"{key} is registered twice")
        _REGISTRY[key] = operator()
    return operator


def registered() -> Mapping[tuple[str, str, int], Operator]:
    """Return every definition by (domain, operator, since_version)."""
    return dict(_REGISTRY)


def find(node: ir.Node, opsets: Mapping[str, int]) -> Operator | None:
    """Return the node's definition, or None where onnxadmm has none.

    Args:
        node: Any node of the model.
        opsets: The model's opset imports, domain to version.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    opset = opsets.get(domain, opsets.get("ai.onnx", 1) if not domain else 1)
    try:
        since = onnx.defs.get_schema(node.op_type, opset, domain).since_version
    except onnx.defs.SchemaError:
        since = 1
    return _REGISTRY.get((domain, node.op_type, since))


def find_for_training(node: ir.Node, opsets: Mapping[str, int]) -> Operator:
    """Return the node's definition, with every attribute that it sets known to the builder.

    Raises:
        UnsupportedError: No definition, or an attribute that the builder doesn't know.
    """
    operator = find(node, opsets)
    if operator is None:
        there = sorted(v for d, o, v in _REGISTRY if (d, o) == (node.domain, node.op_type))
        known = f"; versions there are: {there}" if there else ""
        raise UnsupportedError(
            f"{describe(node)}: operator {node.domain or 'ai.onnx'}::{node.op_type} can't be trained"
            f"{known}; use a spec without data, or with `schedule: {{epochs: 0, retrain: 0}}`"
        )
    for name in node.attributes:
        if name not in operator.attributes:
            raise UnsupportedError(
                f"{describe(node)}: attribute {one_line(name, 40)!r} of {node.op_type} is not known to the "
                "importer; remove it, or compress without training"
            )
    return operator


def describe(node: ir.Node) -> str:
    """Name a node for a person: its own name, or what it computes."""
    name = node.name or (node.outputs[0].name if node.outputs else "") or "?"
    return f"{node.op_type} {one_line(name, 60)!r}"


def optional_input(node: ir.Node, port: int) -> ir.Value | None:
    """Return an input, or None where it is left out or the node has fewer."""
    return node.inputs[port] if port < len(node.inputs) else None


WHERE_SINCE = 9
"""From this opset on the reference can set to zero what an operator makes of removed channels."""


def is_guarded(node: ir.Node) -> bool:
    """Whether what the node makes of removed channels, which are 0, may be infinite or no number."""
    imports = node.graph.opset_imports if node.graph is not None else {}
    return imports.get("", imports.get("ai.onnx", 1)) >= WHERE_SINCE


def fix_all(node: ir.Node, scope: LabelScope, reason: str) -> None:
    """Fix every channel that reaches the node, and give its outputs none."""
    for value in node.inputs:
        if value is not None:
            for labels in scope.axes(value):
                scope.fix(labels, reason)
    for value in node.outputs:
        scope.assign(value, [unlabelled(n) for n in scope.shape(value)])


def unlabelled(size: int) -> Labels:
    """Return an axis without labels."""
    return np.zeros(size, np.int64)


def normal_axis(axis: int, rank: int) -> int:
    """Return the axis counted from the front."""
    return axis + rank if axis < 0 else axis
