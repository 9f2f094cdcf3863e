"""The steps of one phase: what the optimizer, the penalty and the masks do with a batch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from onnxadmm.admm import Residuals, Solver
from onnxadmm.errors import DivergedError, UnsupportedError, one_line
from onnxadmm.modules import Imported
from onnxadmm.training import divergence
from onnxadmm.training.augmenting import Augmentation
from onnxadmm.training.averaging import Average
from onnxadmm.training.checkpoints import (
    Checkpoint,
    pack_optimizer,
    require_alike,
    unpack_optimizer,
)
from onnxadmm.training.holding import Holding
from onnxadmm.training.objectives import as_tensor
from onnxadmm.training.optimizers import make_optimizer
from onnxadmm.training.phases import Phase
from onnxadmm.training.position import Position
from onnxadmm.training.rates import LearningRate
from onnxadmm.training.settings import Settings
from onnxadmm.training.teacher import Teacher

if TYPE_CHECKING:
    from accelerate import Accelerator


class Descent:
    """What lives as long as a phase: the optimizer with its rate, and Z, U and ρ where it is ADMM's.

    It changes the weights in place, and knows the run's position, which it never changes.
    """

    def __init__(
        self,
        imported: Imported,
        accelerator: Accelerator,
        phase: Phase,
        *,
        settings: Settings,
        position: Position,
        holding: Holding,
        solver: Solver | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        """Begin a phase.

        Args:
            imported: The model; its module is prepared for the accelerator.
            accelerator: Where it is trained.
            phase: Which one.
            settings: What all of a run's trainers share.
            position: Where the run is; it is read at each step.
            holding: Masks and levels that the weights keep to.
            solver: Z, U and ρ of an ADMM phase.
            teacher: The original model, where the loss or the metric asks it.
        """
        self.phase, self.solver = phase, solver
        self._imported, self._accelerator = imported, accelerator
        self._settings, self._at, self._holding = settings, position, holding
        self._teacher = teacher
        self._augmentation = settings.augmentation
        schedule = settings.schedule
        made = make_optimizer(schedule.optimizer, list(imported.binding.values()))
        self.optimizer: torch.optim.Optimizer = accelerator.prepare_optimizer(made)
        self._rate = LearningRate(made, schedule, phase)
        self.average: Average | None = None
        # In ADMM the weights follow a Z that moves: an average over that would lag behind it.
        if schedule.ema is not None and phase.stage == "retrain":
            holding.apply_masks()
            self.average = Average(imported.binding, schedule.ema)

    def begin_epoch(self, number: int) -> None:
        """Begin, or go on with, an epoch by its number in the run: its samples are augmented in its own way."""
        if self._augmentation is not None:
            self._augmentation.begin(number)

    def step(self, module: torch.nn.Module, index: np.ndarray[Any, Any]) -> float:
        """Do one optimizer step on these samples and return the loss.

        Raises:
            DivergedError: The loss or a gradient is not finite.
        """
        imported, settings = self._imported, self._settings
        number = self._at.step + 1
        with self._holding.on_levels():
            loss = self._settings.goal.loss(*self._answers(module, index, self._augmentation))
            value = self._over_processes(loss.detach(), len(index))
            divergence.check_loss(value, imported.outputs[settings.output], number)
            self.optimizer.zero_grad(set_to_none=True)
            self._accelerator.backward(self._weighed(loss, len(index)))
        # Losses of 16-bit floats are scaled up: what is clipped, or added for ADMM, is not.
        self._accelerator.unscale_gradients(self.optimizer)
        if not self._overflows():
            self._clip()
            if self.solver is not None:
                self.solver.add_gradients()
            divergence.check_gradients(imported.binding, number)
        done = self._at.epoch * self.phase.steps_per_epoch + self._at.batch
        self._rate.before_step(done, self._at.retreats)
        self.optimizer.step()
        self._rate.after_step()
        self._holding.apply_masks()
        self._holding.refit()
        if self.average is not None:
            self.average.follow()
        return value

    def _weighed(self, loss: Tensor, samples: int) -> Tensor:
        """Return this process's part of the loss: gradients are averaged, however many samples each process has."""
        processes = self._accelerator.num_processes
        return loss if processes == 1 else loss * (samples * processes / self._settings.batch)

    def _over_processes(self, loss: Tensor, samples: int) -> float:
        """Return the loss over the whole batch: all processes must find it finite, or none."""
        if self._accelerator.num_processes == 1:
            return float(loss)
        return float(self._accelerator.reduce(self._weighed(loss, samples), reduction="mean"))

    def look(self, module: torch.nn.Module, index: np.ndarray[Any, Any], *, alone: bool) -> float:
        """Return the loss on these samples; refuse a state that no step has looked at yet where it isn't finite.

        Args:
            module: The model.
            index: The samples; those of the last step.
            alone: Whether this process asks for itself; else all ask at the same time.

        Raises:
            DivergedError: The loss, or a weight, is not finite.
        """
        imported, number = self._imported, self._at.step
        divergence.check_weights(imported.binding, number)
        with self._looking(module):
            loss = self._settings.goal.loss(*self._answers(module, index))
        value = float(loss) if alone else self._over_processes(loss, len(index))
        divergence.check_loss(value, imported.outputs[self._settings.output], number)
        return value

    def scale(self, module: torch.nn.Module, index: np.ndarray[Any, Any]) -> float | None:
        """Return what is a large loss for this model: that of its answers dealt to the wrong samples, and at least 1.

        All processes ask at the same time. None for a loss of the user's own, whose units nobody knows.
        """
        if not self._settings.goal.in_known_units:
            return None
        with self._looking(module):
            output, labels, taught = self._answers(module, index)
            # To half the batch before and after.
            dealt = output.roll(len(output) // 2, 0)
            found = [self._settings.goal.loss(o, labels, taught) for o in (output, dealt)]
        values = [self._over_processes(loss, len(index)) for loss in found]
        return max([1.0, *(v for v in values if math.isfinite(v))])

    @contextlib.contextmanager
    def _looking(self, module: torch.nn.Module) -> Iterator[None]:
        """Within it nothing learns, and weights that lie on levels are there."""
        module.eval()
        try:
            with torch.no_grad(), self._holding.on_levels():
                yield
        finally:
            module.train()

    def _answers(
        self,
        module: torch.nn.Module,
        index: np.ndarray[Any, Any],
        augmentation: Augmentation | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the output that the loss reads on these samples, their labels, and the teacher's answers."""
        settings, device = self._settings, self._accelerator.device
        inputs, labels = settings.train.batch(index)
        names = self._imported.inputs
        tensors = [torch.from_numpy(inputs[n]).to(device) for n in names]
        if augmentation is not None:
            tensors = augmentation(names, tensors, index)
        taught = None
        if self._teacher is not None and settings.goal.needs_teacher:
            taught = self._teacher.output(index, tensors, as_stored=augmentation is None)
        output = settings.goal.rows(module(*tensors)[settings.output])
        if not output.is_floating_point() or (module.training and not output.requires_grad):
            name = self._imported.outputs[settings.output]
            raise UnsupportedError(
                f"output {one_line(name, 60)!r} can't be learnt from: no gradient leads from it to a weight; let "
                "objective.output name another"
            )
        return output, as_tensor(labels, device), taught

    def update(self) -> tuple[Residuals, dict[str, Residuals]]:
        """Update Z and U; return the residuals over all constraints, and by constraint.

        Raises:
            DivergedError: A weight, a residual or a dual is not finite.
        """
        assert self.solver is not None
        divergence.check_weights(self._imported.binding, self._at.step)
        try:
            residuals, each = self.solver.update()
        except ValueError as e:
            # Finite weights and duals whose sum isn't.
            raise DivergedError(
                f"step {self._at.step}: a residual is not finite ({one_line(e, 80)})"
            ) from None
        divergence.check_residuals(each, self._at.step)
        divergence.check_duals(self.solver.duals(), self._at.step)
        self._rate.after_update()
        return residuals, each

    def end_epoch(self, loss: float) -> None:
        """Tell the learning rate an epoch's loss."""
        self._rate.after_epoch(loss)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the state as tensors by name and as JSON values, for a checkpoint."""
        tensors, plain = pack_optimizer(self.optimizer)
        if self.solver is not None:
            tensors.update({f"solver.{n}": t for n, t in self.solver.state().items()})
        if self.average is not None:
            tensors.update({f"average.{n}": t for n, t in self.average.held.items()})
        return tensors, {
            "optimizer": plain,
            "rate": self._rate.pack(),
            "averaged": self.average.steps if self.average else None,
            "rhos": list(self.solver.rhos) if self.solver else None,
            "updates": self.solver.updates if self.solver else None,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take the state from a checkpoint; one between phases holds none of it."""
        device = self._accelerator.device
        plain = checkpoint.state
        if "rate" not in plain:
            return
        fresh = self.pack()[1]
        for name in ("rate", "averaged", "rhos", "updates"):
            require_alike(plain[name], fresh[name])
        packed = checkpoint.under("optimizer.", device)
        full = {f"optimizer.{n}": t for n, t in packed.items()}
        unpack_optimizer(self.optimizer, full, plain["optimizer"])
        self._rate.restore(plain["rate"])
        if self.solver is not None:
            state = checkpoint.under("solver.", device)
            self.solver.restore(state, plain["rhos"], plain["updates"])
        if self.average is not None:
            self.average.restore(checkpoint.under("average.", device), plain["averaged"])

    def _overflows(self) -> bool:
        """Whether a gradient left the range of 16-bit floats: the optimizer passes this step over, and the scale falls.

        At a scale of 1 the loss itself has gradients that are not finite.
        """
        scaler = self._accelerator.scaler
        if scaler is None or scaler.get_scale() <= 1:
            return False
        found = [w.grad for w in self._imported.binding.values() if w.grad is not None]
        return not bool(torch.isfinite(torch.nn.utils.get_total_norm(found)))

    def _clip(self) -> None:
        """Shorten the loss's gradient as the spec says; ADMM's penalty has not been added yet."""
        schedule, weights = self._settings.schedule, self._imported.binding
        if schedule.clip_norm is None and schedule.clip_value is None:
            return
        # A gradient that isn't finite would spoil all the others, and the wrong weight would be named.
        divergence.check_gradients(weights, self._at.step + 1)
        if schedule.clip_value is not None:
            torch.nn.utils.clip_grad_value_(weights.values(), schedule.clip_value)
        if schedule.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(weights.values(), schedule.clip_norm)
