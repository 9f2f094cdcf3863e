"""What training minimises, and what is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from onnxadmm.errors import DataError, SpecError
from onnxadmm.graph import Ending, Layout
from onnxadmm.spec import Distillation, Objective

Array = np.ndarray[Any, Any]
Held = TypeVar("Held", Tensor, Array)
_EPSILON = 1e-7
"""A probability is taken to be at least so far from 0 and 1 before its logit."""


class OwnFunction(Protocol):
    """A loss (of tensors) or a metric (of arrays) of the user's own."""

    @property
    def asks_original(self) -> bool:
        """Whether it reads the original's output."""

    def __call__(self, output: Any, labels: Any, original: Any, /) -> Any:
        """Return the loss or the metric."""


@dataclass(frozen=True)
class Goal:
    """The objective, with what only the graph and the files that the spec names can tell.

    Attributes:
        objective: The spec's.
        ending: What the output is behind.
        functions: `loss` and `metric`, where they are functions of the user's own.
        layout: What the output's axes are.
        spread: The variance of what outputs are compared with by mse, which is counted in units of it: a loss in
            squares of dollars or of degrees would leave ρ and limits on gradients without a meaning.
    """

    objective: Objective
    ending: Ending | None = None
    functions: Mapping[str, OwnFunction] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)
    spread: float = 1.0

    def rows(self, output: Tensor) -> Tensor:
        """Return an output as the graph gives it with its samples first, [N, ...]."""
        return output.movedim(self.layout.samples, 0) if self.layout.samples else output

    def loss(self, output: Tensor, labels: Tensor | None, teacher: Tensor | None) -> Tensor:
        """Return the loss of one batch, the mean over its samples.

        Args:
            output: The model's output [N, ...].
            labels: Class indices [N] for cross_entropy; targets in the output's shape for bce and mse.
            teacher: The original model's output, where the objective asks it.

        Raises:
            SpecError: A function of the user's own returned no loss.
        """
        mixed = self.objective.distill
        if self.objective.loss == "distill":
            assert teacher is not None
            return self.taught(output, teacher, mixed or Distillation())
        function = self.functions.get("loss")
        if function is None:
            assert labels is not None
            loss = self._labelled(output, labels)
        else:
            loss = function(output, labels, teacher)
            # Where nothing learns nothing can be told of what it depends on.
            still = isinstance(loss, Tensor) and output.requires_grad and not loss.requires_grad
            if not isinstance(loss, Tensor) or loss.numel() != 1 or still:
                raise SpecError(
                    f"objective.loss: {self.objective.loss} gave no tensor of one number that depends on the output; "
                    "mend the function"
                )
            loss = loss.reshape(())
        if mixed is None:
            return loss
        assert teacher is not None
        return (1 - mixed.weight) * loss + mixed.weight * self.taught(output, teacher, mixed)

    def taught(self, output: Tensor, teacher: Tensor, settings: Distillation) -> Tensor:
        """Return how far the output is from the teacher's: T² · KL(teacher || output) at temperature T, or MSE in units of `spread`.

        Source: Hinton et al., arXiv 1503.02531, section 2.
        """
        temperature, loss = settings.temperature, self.objective.loss
        axis, match = self._class_axis(output), settings.match
        if match == "auto":
            match = "mse" if axis is None and loss != "bce" else "kl"
        if match == "mse":
            return F.mse_loss(output, teacher) / self.spread
        if loss == "bce":
            return binary_distillation(self._logits(output), self._logits(teacher), temperature)
        return distillation(
            self._logits(output), self._logits(teacher), temperature, 1 if axis is None else axis
        )

    def measure(self, output: Array, labels: Array | None, original: Array | None) -> float | None:
        """Return the metric over all samples, or None where what it needs isn't there; see `scores`."""
        found = self.scores(output, labels, original)
        return None if found is None else float(found.mean(dtype=np.float64))

    def scores(self, output: Array, labels: Array | None, original: Array | None) -> Array | None:
        """Return the score of every sample [N], or one number of all [], whose mean is the metric.

        Args:
            output: The model's output [N, ...].
            labels: Labels [N], or targets in the output's shape.
            original: The original model's output, for agreement.

        Returns:
            None where what it needs isn't there.

        Raises:
            SpecError: A function of the user's own returned neither.
        """
        function = self.functions.get("metric")
        if function is None:
            boundary = 0.5 if self.ending == "sigmoid" else 0.0
            metric, axis = self.objective.resolved_metric, self._class_axis(output)
            if metric == "accuracy" and axis is None:
                axis = 1
            sided = self.objective.loss == "bce" or self.ending == "sigmoid"
            return scores(
                metric, output, labels, original, axis=axis, boundary=boundary if sided else None
            )
        value = function(output, labels, original)
        try:
            found = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            found = None
        if found is None or found.shape not in ((), (len(output),)):
            shape = "" if found is None or not found.ndim else f" of shape {list(found.shape)}"
            raise SpecError(
                f"objective.metric: {self.objective.metric} gave a {type(value).__name__}{shape}, neither a number nor "
                "one a sample; mend the function"
            )
        # What isn't finite can't be compared: it was not measured.
        return found if bool(np.isfinite(found).all()) else None

    def in_units_of(self, targets: Array | None) -> Goal:
        """Return the goal with an mse in units of the variance of these targets, if they have any."""
        found = (
            float(np.var(targets, dtype=np.float64))
            if targets is not None and targets.size
            else 0.0
        )
        return replace(self, spread=found) if math.isfinite(found) and found > 0 else self

    @property
    def in_known_units(self) -> bool:
        """Whether a loss of 1 is a large one: nats, or variances of the targets. A function of the user's own has any."""
        return "loss" not in self.functions

    @property
    def bounded(self) -> bool:
        """Whether a sample's score is a share, from 0 to 1."""
        return "metric" not in self.functions and self.objective.resolved_metric != "mse"

    @property
    def needs_teacher(self) -> bool:
        """Whether training asks the original model."""
        objective = self.objective
        return (
            objective.loss == "distill"
            or objective.distill is not None
            or self._function_asks("loss")
        )

    @property
    def asks_original(self) -> bool:
        """Whether training or the metric asks the original model."""
        if "metric" in self.functions:
            return self.needs_teacher or self._function_asks("metric")
        return self.needs_teacher or self.objective.resolved_metric == "agreement"

    def _function_asks(self, key: str) -> bool:
        return key in self.functions and self.functions[key].asks_original

    def _class_axis(self, output: Tensor | Array) -> int | None:
        """Return the axis of the classes of an output [N, ...], or None where its values are no classes."""
        if self.layout.classes is not None:
            return self.layout.classes
        mixed = self.objective.distill
        if self.objective.loss == "cross_entropy" or (mixed is not None and mixed.match == "kl"):
            return 1
        several = output.ndim == 2 and output.shape[1] > 1  # noqa: PLR2004
        return 1 if several and self.ending != "sigmoid" else None

    def _labelled(self, output: Tensor, labels: Tensor) -> Tensor:
        if self.objective.loss == "cross_entropy":
            axis = self._class_axis(output) or 1
            logits = self._logits(output).movedim(axis, 1)
            return F.cross_entropy(logits, _fitted(labels, logits[:, 0]))
        targets = _fitted(labels, output)
        if self.objective.loss == "mse":
            return F.mse_loss(output, targets) / self.spread
        if self.ending == "sigmoid":
            return F.binary_cross_entropy(output, targets)
        return F.binary_cross_entropy_with_logits(output, targets)

    def _logits(self, output: Tensor) -> Tensor:
        """Return logits of what the graph turned into probabilities; others as they are.

        A softmax's logits are known up to a constant that no softmax sees.
        """
        if self.ending == "softmax":
            return output.clamp_min(torch.finfo(output.dtype).tiny).log()
        return torch.logit(output, eps=_EPSILON) if self.ending == "sigmoid" else output


def distillation(output: Tensor, teacher: Tensor, temperature: float, axis: int = 1) -> Tensor:
    """Return T² · KL(teacher || output) at temperature T, of logits over an axis, the mean over all others."""
    student = F.log_softmax(output / temperature, dim=axis)
    target = F.log_softmax(teacher / temperature, dim=axis)
    each = F.kl_div(student, target, reduction="none", log_target=True).sum(axis)
    return each.mean() * temperature**2


def binary_distillation(output: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² · KL(teacher || output) at temperature T, of logits of yes or no, the mean over all."""
    target = torch.sigmoid(teacher / temperature)
    cross = F.binary_cross_entropy_with_logits(output / temperature, target)
    least = F.binary_cross_entropy_with_logits(teacher / temperature, target)
    return (cross - least) * temperature**2


def scores(
    metric: str,
    output: Array,
    labels: Array | None,
    original: Array | None,
    *,
    axis: int | None = 1,
    boundary: float | None = 0.0,
) -> Array | None:
    """Return the score of every sample [N], whose mean is the metric, or None where what it needs isn't there.

    Args:
        metric: accuracy (share of samples, or of their places, whose largest output is the label; for targets, as
            bce has them, share of outputs whose side of the boundary is that of the target of a half), agreement
            (share whose largest output is the original's; without classes the share whose side of the boundary
            is, or how much of the original's variance the output explains) or mse.
        output: The model's output [N, ...].
        labels: Labels [N, ...] without the axis of classes, or targets in the output's shape.
        original: The original model's output, for agreement.
        axis: The axis of classes; None where the values are none.
        boundary: Between no and yes: 0 for logits, a half for probabilities; None where there are no sides.
    """
    side = boundary or 0.0
    if metric == "agreement":
        if original is None:
            return None
        if axis is not None:
            return _by_sample(_decide(output, side, axis) == _decide(original, side, axis))
        if boundary is not None:
            return _by_sample((output > side) == (original > side))
        return explained(output, original)
    if labels is None:
        return None
    if metric == "accuracy" and labels.dtype.kind == "f":
        return _by_sample((output > side) == (_fitted(labels, output) > 0.5))  # noqa: PLR2004
    if metric == "accuracy":
        decided = _decide(output, side, 1 if axis is None else axis)
        return _by_sample(decided == _fitted(labels, decided))
    return _by_sample(np.square(output - _fitted(labels, output)))


def _fitted(labels: Held, wanted: Held) -> Held:
    """Return labels in the shape of what they are compared with.

    Raises:
        DataError: They have another number of values.
    """
    if math.prod(labels.shape) != math.prod(wanted.shape):
        raise DataError(
            f"labels: a sample has shape {list(labels.shape[1:])}, but the model's output asks for "
            f"{list(wanted.shape[1:])}; store labels of that shape"
        )
    return labels.reshape(wanted.shape)


def explained(output: Array, original: Array) -> Array:
    """Return of every sample [N] what share of the original's variance its output explains, from 0 to 1.

    One less the mean squared error over the variance of all values of all samples: the coefficient of
    determination, cut off at 0.
    """
    error = _by_sample(np.square(np.subtract(output, original, dtype=np.float64)))
    variance = float(np.var(original, dtype=np.float64))
    if not variance:
        return np.asarray(error == 0, np.float64)
    return np.asarray(np.clip(1 - error / variance, 0, 1))


def _by_sample(values: Array) -> Array:
    """Return the mean over all axes but the first."""
    return np.asarray(values.reshape(len(values), -1).mean(axis=1, dtype=np.float64))


def _decide(output: Array, boundary: float, axis: int) -> Array:
    """Return the class of each sample, or of each of its places."""
    if output.ndim > axis and output.shape[axis] > 1:
        return np.asarray(output.argmax(axis))
    return np.asarray(output.reshape(len(output), -1)[:, 0] > boundary).astype(np.int64)


def as_tensor(labels: Array | None, device: torch.device) -> Tensor | None:
    """Return labels on the device."""
    return None if labels is None else torch.from_numpy(np.ascontiguousarray(labels)).to(device)
