"""What training minimises, and what is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from onnxadmm.spec import Objective

Array = np.ndarray[Any, Any]


def loss_of(
    objective: Objective, output: Tensor, labels: Tensor | None, teacher: Tensor | None
) -> Tensor:
    """Return the loss of one batch, the mean over its samples.

    Args:
        objective: The spec's objective.
        output: The model's output [N, ...].
        labels: Class indices [N] for cross_entropy; targets in the output's shape for bce and mse.
        teacher: The original model's output, where the objective distills.
    """
    mixed = objective.distill
    if objective.loss == "distill":
        assert teacher is not None
        temperature = mixed.temperature if mixed else 4.0
        return distillation(output, teacher, temperature)
    assert labels is not None
    if objective.loss == "cross_entropy":
        loss = F.cross_entropy(output, labels)
    elif objective.loss == "bce":
        loss = F.binary_cross_entropy_with_logits(output, labels.view_as(output))
    else:
        loss = F.mse_loss(output, labels.view_as(output))
    if mixed is None or teacher is None:
        return loss
    taught = distillation(output, teacher, mixed.temperature)
    return (1 - mixed.weight) * loss + mixed.weight * taught


def distillation(output: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² · KL(teacher || output) at temperature T (Hinton et al., arXiv 1503.02531, section 2).

    For outputs that are no logits over classes (one column, or more than two axes) the mean squared
    error serves.
    """
    if output.dim() != 2 or output.shape[1] < 2:  # noqa: PLR2004
        return F.mse_loss(output, teacher)
    student = F.log_softmax(output / temperature, dim=1)
    target = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(student, target, reduction="batchmean", log_target=True) * temperature**2


def measure(
    metric: str, output: Array, labels: Array | None, original: Array | None
) -> float | None:
    """Return a metric over all samples, or None where what it needs isn't there; see `scores`."""
    found = scores(metric, output, labels, original)
    return None if found is None else float(found.mean(dtype=np.float64))


def scores(
    metric: str, output: Array, labels: Array | None, original: Array | None
) -> Array | None:
    """Return the score of every sample [N], whose mean is the metric, or None where what it needs isn't there.

    Args:
        metric: accuracy (share of samples whose largest output is the label; for targets, as bce has
            them, share of outputs whose sign says whether the target is above a half), agreement
            (share whose largest output is the original's; for one column, the sign) or mse.
        output: The model's output [N, ...].
        labels: Labels [N], or targets in the output's shape.
        original: The original model's output, for agreement.
    """
    if metric == "agreement":
        return None if original is None else _by_sample(_decide(output) == _decide(original))
    if labels is None:
        return None
    if metric == "accuracy" and labels.dtype.kind == "f":
        return _by_sample((output > 0) == (labels.reshape(output.shape) > 0.5))  # noqa: PLR2004
    if metric == "accuracy":
        decided = _decide(output)
        return _by_sample(decided == labels.reshape(decided.shape))
    return _by_sample(np.square(output - labels.reshape(output.shape)))


def _by_sample(values: Array) -> Array:
    """Return the mean over all axes but the first."""
    return np.asarray(values.reshape(len(values), -1).mean(axis=1, dtype=np.float64))


def _decide(output: Array) -> Array:
    """Return the class of each sample."""
    if output.ndim > 1 and output.shape[1] > 1:
        return np.asarray(output.argmax(1))
    return np.asarray(output.reshape(len(output), -1)[:, 0] > 0).astype(np.int64)


def needs_teacher(objective: Objective) -> bool:
    """Whether training asks the original model."""
    return objective.loss == "distill" or objective.distill is not None


def as_tensor(labels: Array | None, device: torch.device) -> Tensor | None:
    """Return labels on the device."""
    return None if labels is None else torch.from_numpy(np.ascontiguousarray(labels)).to(device)
