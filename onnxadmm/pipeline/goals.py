"""The objective of a run, with what only the graph and the spec's own files can tell."""

from __future__ import annotations

import onnx_ir as ir
import torch

from onnxadmm.modules import Imported
from onnxadmm.pipeline.request import Request, output_index
from onnxadmm.training import Ending, Goal, Settings
from onnxadmm.training.objectives import as_tensor

_SINCE_LAST_AXIS = 13
"""From this opset on a Softmax without an axis is one over the last."""


def goal_of(request: Request) -> Goal:
    """Return a request's loss and metric."""
    index = output_index(request.spec, request.model)
    return Goal(request.spec.objective, _ending(request.model, index), request.functions)


def try_functions(settings: Settings, imported: Imported, rows: int) -> None:
    """Call the functions of the user's own once, on so many samples of the unchanged model.

    The metric would otherwise be called after an epoch for the first time.

    Raises:
        SpecError: One fails, or returns nothing to train with or to compare.
    """
    goal = settings.goal
    if not goal.functions:
        return
    inputs, labels = settings.train.batch(slice(0, rows))
    device = next((p.device for p in imported.module.parameters()), torch.device("cpu"))
    tensors = [torch.from_numpy(inputs[n]).to(device) for n in imported.inputs]
    output = imported.module(*tensors)[settings.output]
    goal.loss(output, as_tensor(labels, device), output.detach())
    answer = output.detach().float().cpu().numpy()
    goal.measure(answer, labels, answer)


def _ending(model: ir.Model, index: int) -> Ending | None:
    """Return what an output is behind: a Softmax over axis 1, or a Sigmoid."""
    output = model.graph.outputs[index]
    node = output.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Sigmoid":
        return "sigmoid"
    if node.op_type != "Softmax" or output.shape is None:
        return None
    last = len(output.shape) - 1
    since_last = model.opset_imports.get("", 0) >= _SINCE_LAST_AXIS
    axis = node.attributes.get_int("axis", -1 if since_last else 1)
    flattened = not since_last and last > 1
    return "softmax" if not flattened and axis % (last + 1) == 1 else None
