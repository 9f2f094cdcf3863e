"""What is looked at so that a run that diverges is caught at its step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from onnxadmm.admm import Residuals
from onnxadmm.errors import DivergedError, one_line


def check_loss(value: float, output: str, step: int) -> None:
    """Refuse a loss that isn't finite.

    Raises:
        DivergedError: It isn't; names the output that it was computed on.
    """
    if not math.isfinite(value):
        raise DivergedError(f"step {step}: the loss on output {one_line(output, 60)!r} is {value}")


MOST_GROWTH = 100.0
"""By its mean over an epoch. The end doesn't count: a network that exploded may be dead by then, at the loss of chance."""
GROWTH_AFTER_RETREAT = 1.0
"""As `MOST_GROWTH`, for a run that went back before: that it diverges is known, and so what a large loss means."""


def check_growth(
    loss: float, scale: float | None, output: str, step: int, *, went_back: bool = False
) -> None:
    """Refuse a loss that is finite and absurd.

    Args:
        loss: The epoch's, the mean over its steps.
        scale: A large loss, as answers have that belong to other samples; None where that can't be told.
        output: The output that it is computed on.
        step: The last one of the epoch.
        went_back: Whether the run diverged before.

    Raises:
        DivergedError: It is more than `MOST_GROWTH` times as large, or `GROWTH_AFTER_RETREAT` times.
    """
    most = GROWTH_AFTER_RETREAT if went_back else MOST_GROWTH
    if scale is not None and loss > most * scale:
        raise DivergedError(
            f"step {step}: the loss on output {one_line(output, 60)!r} is {loss:.3g} over the epoch; before training, answers dealt "
            f"to the wrong samples had at most {scale:.3g}"
        )


def check_gradients(weights: Mapping[str, Tensor], step: int) -> None:
    """Refuse a gradient that isn't finite before it reaches the weights.

    Raises:
        DivergedError: One isn't; names its weight and the value.
    """
    found = {n: w.grad for n, w in weights.items() if w.grad is not None}
    norm = torch.nn.utils.get_total_norm(list(found.values()))
    # A norm may overflow where no gradient does.
    if not bool(torch.isfinite(norm)):
        _refuse("the gradient of weight", found, step)


def check_weights(weights: Mapping[str, Tensor], step: int) -> None:
    """Refuse weights that aren't finite. A loss has not looked at them yet after the last step.

    Raises:
        DivergedError: One isn't; names it and the value.
    """
    _refuse("weight", weights, step)


def check_residuals(each: Mapping[str, Residuals], step: int) -> None:
    """Refuse residuals that aren't finite.

    Raises:
        DivergedError: Those of a constraint aren't; names it.
    """
    for name, one in each.items():
        if not math.isfinite(one.primal + one.dual):
            raise DivergedError(
                f"step {step}: the residuals of {one_line(name, 60)!r} are {one.primal}, {one.dual}"
            )


def check_duals(each: Mapping[str, Mapping[str, Tensor]], step: int) -> None:
    """Refuse duals that aren't finite: a change of ρ rescales them, after the residuals are told.

    Args:
        each: The duals of each constraint, by weight.
        step: Of the update.

    Raises:
        DivergedError: One isn't; names its constraint, its weight and the value.
    """
    for name, duals in each.items():
        if not bool(torch.isfinite(torch.nn.utils.get_total_norm(list(duals.values())))):
            _refuse(f"the dual of {one_line(name, 60)!r} for weight", duals, step)


@torch.no_grad()
def _refuse(what: str, tensors: Mapping[str, Tensor], step: int) -> None:
    for name, tensor in tensors.items():
        finite = torch.isfinite(tensor)
        if not bool(finite.all()):
            value = float(tensor[~finite][0])
            raise DivergedError(f"step {step}: {what} {one_line(name, 60)!r} holds {value}")
