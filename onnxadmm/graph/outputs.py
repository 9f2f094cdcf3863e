"""What an output of a graph is: which axes are samples and classes, and what it is behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxadmm.graph.inputs import real_inputs
from onnxadmm.graph.walking import constant_of

Ending = Literal["softmax", "sigmoid"]
"""What an output is behind, where it is no raw value."""

_PASSED = frozenset({"Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose"})
_RENAMED = frozenset({"Identity", "Cast"})
_SINCE_LAST_AXIS = 13
"""From this opset on a Softmax without an axis is one over the last."""


@dataclass(frozen=True)
class Layout:
    """What the axes of an output are.

    Attributes:
        samples: The axis of the samples. Recognisers of text put time first.
        classes: The axis of the classes once samples come first; None where the graph doesn't tell.
    """

    samples: int = 0
    classes: int | None = None

    def lengths(self, shape: tuple[int, ...]) -> tuple[int | None, int]:
        """Return how many classes an output of this shape has (None without any), and how many other axes a sample.

        Classes are on axis 1 where the graph doesn't tell.
        """
        if len(shape) < 2:  # noqa: PLR2004  (nothing but samples)
            return None, 0
        rest = [n for axis, n in enumerate(shape) if axis != self.samples]
        axis = 0 if self.classes is None else self.classes - 1
        return rest[axis], len(rest) - 1


def output_layout(model: ir.Model, index: int) -> Layout:
    """Return what the axes of the graph output of this index are.

    Classes are what a softmax at the end is over. Samples lie along the axis that bears the name of the batch, the
    open first dimension of an input; where none does, along the only open one; else along the first.
    """
    samples = _samples_axis(model, index)
    return Layout(samples, _classes_axis(model, index, samples))


def output_ending(model: ir.Model, index: int) -> Ending | None:
    """Return what an output is behind: a Softmax over its classes, or a Sigmoid.

    A Sigmoid beside one less it is a softmax of two classes.
    """
    last = _last(model, index)
    if last is None:
        return None
    if last.op_type == "Sigmoid":
        return "sigmoid"
    told = output_layout(model, index).classes is not None
    return "softmax" if last.op_type in ("Softmax", "Concat") and told else None


def _samples_axis(model: ir.Model, index: int) -> int:
    shape = model.graph.outputs[index].shape
    dims = [] if shape is None else list(shape)
    firsts = [v.shape[0] for v in real_inputs(model) if v.shape is not None and len(v.shape)]
    batch = {str(d) for d in firsts if not isinstance(d, int)}
    named = [axis for axis, d in enumerate(dims) if not isinstance(d, int) and str(d) in batch]
    if named:
        return named[0]
    free = [axis for axis, d in enumerate(dims) if not isinstance(d, int)]
    return free[0] if len(free) == 1 and batch else 0


def _classes_axis(model: ir.Model, index: int, samples: int) -> int | None:
    output, last = model.graph.outputs[index], _last(model, index)
    if last is None or output.shape is None:
        return None
    pair = _is_pair(last)
    if not pair and last.op_type not in ("Softmax", "LogSoftmax"):
        return None
    node = output.producer()
    while node is not None and node is not last:
        # Behind what moves axes it is no longer known which one it was.
        source = node.inputs[0] if node.op_type in _RENAMED else None
        node = None if source is None else source.producer()
    if node is None:
        return None
    rank = len(output.shape)
    since_last = model.opset_imports.get("", 0) >= _SINCE_LAST_AXIS
    axis = last.attributes.get_int("axis", -1 if since_last else 1)
    if not rank or not -rank <= axis < rank:
        return None
    axis %= rank
    # Before, it was over all axes from that one on.
    if axis == samples or (not pair and not since_last and axis != rank - 1):
        return None
    return axis + 1 if axis < samples else axis


def _is_pair(node: ir.Node) -> bool:
    """Whether a node puts a probability beside one less it, as scikit-learn's converter does."""
    if node.op_type != "Concat" or len(node.inputs) != 2:  # noqa: PLR2004
        return False
    for rest, yes in (node.inputs, node.inputs[::-1]):
        less = None if rest is None else rest.producer()
        if less is None or less.op_type != "Sub" or _source(less.inputs[1]) is not _source(yes):
            continue
        one, source = constant_of(less.inputs[0]), _source(yes)
        made = None if source is None else source.producer()
        if one is not None and (one == 1).all() and made is not None:
            return made.op_type == "Sigmoid"
    return False


def _source(value: ir.Value | None) -> ir.Value | None:
    """Return the value that another renames or reshapes."""
    while value is not None and (node := value.producer()) is not None and node.inputs:
        if node.op_type not in _PASSED:
            break
        value = node.inputs[0]
    return value


def _last(model: ir.Model, index: int) -> ir.Node | None:
    """Return the node that gives an output its values: what only moves or renames them is passed over."""
    node = model.graph.outputs[index].producer()
    while node is not None and node.op_type in _PASSED:
        source = node.inputs[0] if node.inputs else None
        node = None if source is None else source.producer()
    return node if node is not None and node.domain in ("", "ai.onnx") else None
