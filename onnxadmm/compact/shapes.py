"""Shapes after a cut: they follow the labels, without running or inferring anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from onnxadmm.channels import Labelling
from onnxadmm.compact.masks import among

Shape = tuple[int, ...]


def shapes_after(
    labelling: Labelling, shapes: Mapping[str, Shape], dead: Iterable[int]
) -> dict[str, Shape]:
    """Return the shapes that values have once the dead channels are gone.

    Args:
        labelling: The labels.
        shapes: Value name -> concrete shape before the cut.
        dead: The labels that go.
    """
    gone = np.array(sorted(dead), np.int64)
    after = dict(shapes)
    if gone.size:
        for name, axes in labelling.axes.items():
            if name in after:
                after[name] = tuple(len(labels) - int(among(labels, gone).sum()) for labels in axes)
    return after


def recorded_shapes(model: ir.Model) -> dict[str, ir.Shape]:
    """Return what the graph records of the shapes of its intermediate values."""
    found: dict[str, ir.Shape] = {}
    for node in model.graph:
        for value in node.outputs:
            if value.name and value.shape is not None and not value.is_graph_output():
                found[value.name] = value.shape
    return found


def record_shapes(
    cut: ir.Model,
    recorded: Mapping[str, ir.Shape],
    before: Mapping[str, Shape],
    after: Mapping[str, Shape],
) -> None:
    """Record shapes anew, in place, for the values that had one; numbers change, open dimensions stay.

    Args:
        cut: The cut graph.
        recorded: From `recorded_shapes`, before the cut.
        before: Value name -> the shape that the graph really had.
        after: Value name -> the shape that it has now.
    """
    for node in cut.graph:
        for value in node.outputs:
            name = value.name or ""
            if name in recorded and name in before and name in after:
                value.shape = _shape(recorded[name], before[name], after[name])


def _shape(recorded: ir.Shape, before: Shape, after: Shape) -> ir.Shape | None:
    """Return the new shape, or None where the recorded one contradicted what the graph did."""
    if not len(recorded) == len(before) == len(after):
        return None
    dims: list[int | ir.SymbolicDim | None] = []
    for dim, old, new in zip(recorded, before, after, strict=True):
        if isinstance(dim, int) and dim != old:
            return None
        dims.append(new if isinstance(dim, int) else dim if old == new else None)
    return ir.Shape(dims)
