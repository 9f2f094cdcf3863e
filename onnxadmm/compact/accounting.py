"""What a graph weighs and costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.graph import Probe, constant_of, model_size


@dataclass(frozen=True, slots=True)
class Account:
    """Size and cost of a graph.

    Attributes:
        file_bytes: Size of the model on the disk, with what lies beside it.
        parameters: Elements of all weights (biases included, statistics not).
        nonzero_parameters: Those that aren't zero.
        macs: Multiply-accumulates of one sample.
        uncounted: Operators with weights and without a definition, whose cost isn't in `macs`.
    """

    file_bytes: int
    parameters: int
    nonzero_parameters: int
    macs: int
    uncounted: tuple[str, ...]


def account(model: ir.Model, probe: Probe) -> Account:
    """Count a graph's parameters and multiply-accumulates.

    Args:
        model: The graph, float: an int8 graph has its float one's counts.
        probe: Its shapes at batch 1.
    """
    opsets = dict(model.opset_imports)
    contents = [constant_of(v) for v in ops.weights(model).values()]
    held = [c for c in contents if c is not None]
    macs, unknown = 0, set()
    for node in model.graph:
        operator = ops.find(node, opsets)
        if operator is None:
            # Without weights an operator moves or combines data, and costs next to nothing.
            if any(_is_matrix(v) for v in node.inputs):
                unknown.add(node.op_type)
        else:
            macs += operator.macs(node, probe.shapes)
    return Account(
        file_bytes=model_size(model),
        parameters=sum(c.size for c in held),
        nonzero_parameters=sum(int(np.count_nonzero(c)) for c in held),
        macs=macs,
        uncounted=tuple(sorted(unknown)),
    )


def _is_matrix(value: ir.Value | None) -> bool:
    content = constant_of(value)
    return content is not None and content.ndim > 1 and content.dtype.kind == "f"
