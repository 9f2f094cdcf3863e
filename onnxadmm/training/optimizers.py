"""Optimizers and learning-rate schedules of torch, by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch.optim import lr_scheduler

from onnxadmm.errors import SpecError, one_line
from onnxadmm.spec import LrSchedule, Optimizer, Option, Schedule

Scheduler = lr_scheduler.LRScheduler | lr_scheduler.ReduceLROnPlateau

# What the loop needs as it is, whatever the spec says: gradients descend, state is on the weights' device.
_OURS = {"params", "lr", "weight_decay", "maximize", "capturable", "differentiable"}
_SCHEDULER_OURS = {
    *("optimizer", "last_epoch", "scale_fn"),
    *("total_steps", "epochs", "steps_per_epoch"),  # OneCycleLR would end in the middle
}
_LENGTHS = {
    "CosineAnnealingLR": "T_max",
    "LinearLR": "total_iters",
    "OneCycleLR": "total_steps",
    "PolynomialLR": "total_iters",
}
"""Which argument of a schedule says how long it is."""
_TRIED = 200


def make_optimizer(spec: Optimizer, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer that the spec names, over these parameters.

    Raises:
        SpecError: It doesn't take its options.
    """
    kind = getattr(torch.optim, spec.name)
    given: dict[str, Any] = {"lr": spec.lr}
    # Written out: AdamW's own default decays.
    if "weight_decay" in inspect.signature(kind).parameters:
        given["weight_decay"] = spec.weight_decay
    elif spec.weight_decay:
        raise SpecError(f"schedule.optimizer.weight_decay: {spec.name} has none; drop it")
    ours = _OURS
    if spec.name == "SGD":
        given["momentum"], ours = spec.momentum, _OURS | {"momentum"}
    options = _checked(kind, spec.options, "schedule.optimizer", ours)
    made: torch.optim.Optimizer = _made(
        kind, (parameters,), {**given, **options}, "schedule.optimizer"
    )
    return made


def make_scheduler(spec: LrSchedule, optimizer: torch.optim.Optimizer, length: int) -> Scheduler:
    """Return the learning-rate schedule that the spec names.

    Args:
        spec: Its name and arguments.
        optimizer: Whose rate it moves, at its base rate.
        length: Of the stretch that it moves over, in what it counts.

    Raises:
        SpecError: It doesn't take its options.
    """
    kind = getattr(lr_scheduler, spec.name)
    options = _checked(kind, spec.options, "schedule.lr_schedule", _SCHEDULER_OURS)
    argument = _LENGTHS.get(spec.name)
    if argument is not None:
        options.setdefault(argument, max(1, length))
    made: Scheduler = _made(kind, (optimizer,), options, "schedule.lr_schedule")
    return made


def check_schedule(schedule: Schedule) -> None:
    """Try the optimizer and the learning-rate schedule on a weight of their own, before anything else runs.

    Raises:
        SpecError: One doesn't take its options, or gives a rate that is none.
    """
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = make_optimizer(schedule.optimizer, [weight])
    named = schedule.lr_schedule
    scheduler = None if named == "auto" else make_scheduler(named, optimizer, _TRIED)
    for count in range(_TRIED):
        weight.grad = torch.full_like(weight, 0.1)
        rate = optimizer.param_groups[0]["lr"]
        if not (isinstance(rate, int | float) and math.isfinite(rate) and rate >= 0):
            raise SpecError(
                f"schedule.lr_schedule: the learning rate is {one_line(rate, 30)} after {count} steps; mend its options"
            )
        try:
            optimizer.step()
            if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                scheduler.step(1.0)
            elif scheduler is not None:
                scheduler.step()
        except Exception as e:  # noqa: BLE001  (whatever torch says to options, it is the spec's fault)
            raise SpecError(f"schedule: torch refuses its options: {one_line(e, 160)}") from None
        if scheduler is None and count:
            break


def state_copies(spec: Optimizer) -> int:
    """Return how many tensors of a weight's size the optimizer keeps for it."""
    if spec.name == "SGD":
        return int(spec.momentum > 0)
    if spec.name == "RMSprop":
        return 1 + bool(spec.options.get("momentum")) + bool(spec.options.get("centered"))
    if spec.name in ("Adagrad", "Adafactor", "ASGD"):
        return 1
    return 2 + bool(spec.options.get("amsgrad"))


def _checked(
    kind: type, options: Mapping[str, Option], key: str, ours: Collection[str]
) -> dict[str, Any]:
    """Return the options as arguments; refuse those that the class doesn't have, or that aren't the user's."""
    known = [n for n in inspect.signature(kind).parameters if n not in ours]
    for name in options:
        if name not in known:
            raise SpecError(
                f"{key}.options: {kind.__name__} takes no {one_line(name, 40)!r} here; it takes {', '.join(known)}"
            )
    return dict(options)


def _made(kind: type, arguments: tuple[Any, ...], options: Mapping[str, Any], key: str) -> Any:
    try:
        return kind(*arguments, **options)
    except Exception as e:  # noqa: BLE001  (whatever torch says to options, it is the spec's fault)
        raise SpecError(
            f"{key}: torch's {kind.__name__} refuses its options: {one_line(e, 160)}"
        ) from None
