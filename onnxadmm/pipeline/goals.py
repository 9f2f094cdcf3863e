"""The objective of a run, with what only the graph and the spec's own files can tell."""

from __future__ import annotations

import torch

from onnxadmm.graph import output_ending, output_layout
from onnxadmm.modules import Imported
from onnxadmm.pipeline.request import Request, output_index
from onnxadmm.training import Goal, Settings
from onnxadmm.training.objectives import as_tensor


def goal_of(request: Request) -> Goal:
    """Return a request's loss and metric."""
    model, index = request.model, output_index(request.spec, request.model)
    layout = output_layout(model, index)
    return Goal(request.spec.objective, output_ending(model, index), request.functions, layout)


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
    output = goal.rows(imported.on_samples(*tensors)[settings.output])
    goal.loss(output, as_tensor(labels, device), output.detach())
    answer = output.detach().float().cpu().numpy()
    goal.measure(answer, labels, answer)
