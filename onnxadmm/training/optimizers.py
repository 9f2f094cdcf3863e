"""The optimizers of a run, by name."""

from __future__ import annotations

import torch

from onnxadmm.spec import Optimizer


def make_optimizer(spec: Optimizer, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer that the spec names, over these parameters."""
    if spec.name == "SGD":
        return torch.optim.SGD(
            parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay
        )
    kind = torch.optim.Adam if spec.name == "Adam" else torch.optim.AdamW
    return kind(parameters, lr=spec.lr, weight_decay=spec.weight_decay)
