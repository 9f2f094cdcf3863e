"""The training loop: phases of ADMM, or of retraining with fixed masks.

Everything that the loop does at a step follows from the seed and the step's number: the order of samples, the
learning rate, when Z and U are updated. So a run that was stopped after any step and resumed from its
checkpoint goes on as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from onnxadmm.admm import Constraint, Solver, make_penalty
from onnxadmm.errors import DivergedError
from onnxadmm.modules import Imported
from onnxadmm.progress import Tick
from onnxadmm.training import divergence
from onnxadmm.training.checkpoints import Checkpoint, CheckpointStore, fitting
from onnxadmm.training.descent import Descent
from onnxadmm.training.history import EpochRecord, Trained, describe, farthest, phase_name
from onnxadmm.training.holding import Holding
from onnxadmm.training.phases import Phase
from onnxadmm.training.position import Position
from onnxadmm.training.rates import RETREAT_FACTOR
from onnxadmm.training.settings import Settings
from onnxadmm.training.teacher import Teacher
from onnxadmm.training.tensor_files import Prefixed, put_on_disk

CHECKPOINT_INTERVAL_S = 15.0
"""A checkpoint is written after the first step that ends so long after the one before."""

CHECKPOINT_SHARE = 0.04
"""Writing checkpoints takes at most this share of the time: a large one is written less often."""

CHEAP_S = 1.0
"""A checkpoint that takes less is written at the end of every phase, whatever its share."""

MAX_RETREATS = 3
"""So often a run that diverges goes back to the start of its epoch; then it gives up."""

_T = TypeVar("_T")
_POSITION, _HISTORY = TypeAdapter(Position), TypeAdapter(list[EpochRecord])


class Trainer:
    """Trains an imported model towards its constraints, or within fixed masks.

    Constructing it moves the module to the device that Accelerate chooses.
    """

    def __init__(
        self,
        imported: Imported,
        phases: Sequence[Phase],
        *,
        settings: Settings,
        constraints: Sequence[Constraint] = (),
        masks: Mapping[str, Tensor] | None = None,
        teacher: Teacher | None = None,
        store: CheckpointStore | None = None,
        first_epoch: int = 1,
    ) -> None:
        """Prepare a run.

        Args:
            imported: The model; its parameters are trained in place.
            phases: What to do, in order.
            settings: What all of a run's trainers share.
            constraints: The final constraints; for ADMM.
            masks: Weight name -> mask of what may be nonzero, from the start; for retraining.
            teacher: The original model, where the loss or the metric asks it.
            store: Where checkpoints go; None keeps none.
            first_epoch: Number of the first epoch in the history.
        """
        from accelerate import Accelerator, DistributedDataParallelKwargs

        torch.manual_seed(settings.seed)
        # Of a model of several outputs the loss may read one.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[unused])
        self.imported = imported
        self.teacher = teacher
        _put_channels_innermost(imported.binding)
        self.module = self.accelerator.prepare_model(imported.on_samples)
        self.final = list(constraints)
        self.train_data, self.eval_data = settings.train, settings.evaluate
        self.batch_size = settings.batch
        self.goal, self.output = settings.goal, settings.output
        self.schedule, self.seed = settings.schedule, settings.seed
        self.settings = settings
        self.progress, self.stop = settings.progress, settings.stop
        self.store, self.first_epoch = store, first_epoch
        self.phases = list(phases)
        self.holding = Holding(imported.binding, masks or {}, self.accelerator.device)
        self.history: list[EpochRecord] = []
        self.position = Position()
        self._good: Checkpoint | None = None
        self._loaded: Checkpoint | None = None
        self._saved_at = time.monotonic()
        self._interval_s = CHECKPOINT_INTERVAL_S
        self._cost_s = 0.0

    def run(self) -> Trained:
        """Train to the end, from a checkpoint where there is one.

        Raises:
            DivergedError: A loss, gradient, weight or residual is not finite, or the loss of a whole epoch absurd,
                and was so after `MAX_RETREATS` retreats to the start of its epoch with smaller steps too.
            Interrupted: `stop` asked for it; a checkpoint is saved.
        """
        self._go_on()
        with self.stop.deferred():
            for index in range(self.position.phase, len(self.phases)):
                self._run_phase(index)
        self.holding.settle()
        return Trained(dict(self.holding.masks), self.history, dict(self.holding.grids))

    def _go_on(self) -> None:
        """Take up the newest whole checkpoint, if there is one, and say what of them is damaged."""
        if self.store is None:
            return
        loaded = self.store.load()
        if self.store.damaged:
            way = "training starts anew" if loaded is None else f"step {loaded.step} is used"
            self.progress.warn(
                f"damaged checkpoints were passed over ({', '.join(self.store.damaged)}): {way}"
            )
        if loaded is None:
            return
        with fitting(loaded):
            self._restore_weights(loaded)
            self.position.require_within(self.phases)
            if "good" in loaded.state:
                good = {n[5:]: t for n, t in loaded.tensors.items() if n.startswith("good.")}
                state = dict(loaded.state["good"])
                _read(_POSITION, state["position"]).require_within(self.phases)
                _read(_HISTORY, state["history"])
                self._good = self._put_aside(Checkpoint(loaded.step, good, state))
        self._loaded = loaded
        self.progress.note(f"resumed after step {loaded.step}")

    # --- phases

    def _run_phase(self, index: int) -> None:
        phase = self.phases[index]
        at = self.position
        at.phase = index
        constraints = [c.tightened(phase.share) for c in self.final if phase.binds(c.name)]
        loaded, self._loaded = self._loaded, None
        with contextlib.nullcontext() if loaded is None else fitting(loaded):
            descent = self._begin(phase, constraints, loaded)
        # As large as all that is trained.
        del loaded
        while at.epoch < phase.epochs and not at.converged:
            if at.batch == 0:
                # The file before goes first: the disk needn't hold two.
                self._good = None
                self._good = self._put_aside(self._capture(descent))
            diverged: DivergedError | None = None
            try:
                self._run_epoch(descent)
            except DivergedError as e:
                # Its frames hold the optimizer's state, which is taken anew.
                diverged = e.with_traceback(None)
            if diverged is not None:
                del descent
                good = self._retreat(diverged)
                at = self.position
                descent = self._begin(phase, constraints, good)
        self._good = None
        if descent.average is not None:
            descent.average.take()
            self.holding.refit()
        if descent.solver is not None:
            # Masked mapping (arXiv 1804.03294, section 3.4): the step's own projection becomes the mask.
            self.holding.fix(constraints)
        at.phase, at.epoch, at.batch, at.converged = index + 1, 0, 0, False
        if not self._is_dear():
            self._save(None)

    def _begin(
        self, phase: Phase, constraints: Sequence[Constraint], checkpoint: Checkpoint | None
    ) -> Descent:
        """Make what lives as long as a phase, as it was in the checkpoint if there is one."""
        solver: Solver | None = None
        if phase.stage == "admm":
            penalty = make_penalty(self.schedule.rho, phase.updates)
            solver = Solver(constraints, self.imported.binding, penalty)
        descent = Descent(
            self.imported,
            self.accelerator,
            phase,
            settings=self.settings,
            position=self.position,
            holding=self.holding,
            solver=solver,
            teacher=self.teacher,
        )
        if checkpoint is not None:
            descent.restore(checkpoint)
        return descent

    def _retreat(self, error: DivergedError) -> Checkpoint:
        """Go back to the start of the epoch, to go on with smaller steps.

        Raises:
            DivergedError: That has been done often enough.
        """
        retreats = self.position.retreats
        if retreats >= MAX_RETREATS or self._good is None:
            left = self.store is not None and self.store.newest() is not None
            again = ", and run again with --restart: this run left checkpoints" if left else ""
            raise DivergedError(
                f"{error.args[0]}, after going back {retreats} times with smaller steps; lower "
                f"schedule.optimizer.lr, or check the data's scale{again}"
            ) from None
        good = self._good
        self._restore_weights(good)
        self.position.retreats = retreats + 1
        rate = self.schedule.optimizer.lr * RETREAT_FACTOR**self.position.retreats
        self.progress.warn(
            f"training diverged, {error.args[0]}; going back to the start of the epoch with learning rate {rate:.2g}"
        )
        return good

    def _run_epoch(self, descent: Descent) -> None:
        at, phase, solver = self.position, descent.phase, descent.solver
        started = time.monotonic()
        number = self.first_epoch + len(self.history)
        order = np.random.default_rng([self.seed, number]).permutation(len(self.train_data))
        steps = phase.steps_of(at.epoch)
        descent.begin_epoch(number)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        self.module.train()

        def samples(number: int) -> np.ndarray[Any, Any]:
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            return np.sort(batch[rank::world])

        if at.scale is None:
            at.scale = descent.scale(self.module, samples(0))
        while at.batch < steps:
            at.loss_sum += descent.step(self.module, samples(at.batch))
            at.batch += 1
            at.step += 1
            if solver is not None and phase.updates_after(at.epoch, at.batch):
                residuals, each = descent.update()
                at.residuals = asdict(residuals)
                at.constraints = {n: asdict(r) for n, r in each.items()}
            if at.batch % max(1, steps // 20) == 0:
                self._tick(phase, solver)
            self._maybe_stop(descent, samples(at.batch - 1))
        # No step follows that would see what the last one did.
        descent.look(self.module, samples(at.batch - 1), alone=False)
        loss = at.loss_sum / steps
        divergence.check_growth(
            loss,
            at.scale,
            self.imported.outputs[self.output],
            at.step,
            went_back=at.retreats > 0,
        )
        descent.end_epoch(loss)
        average = descent.average
        averaged = contextlib.nullcontext() if average is None else average.in_place()
        with averaged, self.holding.on_levels():
            metric = self._evaluate()
        primal, dual = at.residuals.get("primal"), at.residuals.get("dual")
        record = EpochRecord(
            epoch=self.first_epoch + len(self.history),
            stage=phase.stage,
            step=phase.step,
            loss=loss,
            metric=metric,
            rho=solver.rho if solver else None,
            primal=primal if solver else None,
            dual=dual if solver else None,
            seconds=time.monotonic() - started,
            constraints=dict(at.constraints),
        )
        self.history.append(record)
        self.progress.note(describe(record, phase, self.goal.objective))
        tolerance = self.schedule.tolerance
        at.converged = bool(
            solver and primal is not None and dual is not None and max(primal, dual) < tolerance
        )
        at.epoch, at.batch, at.loss_sum = at.epoch + 1, 0, 0.0

    # --- looking

    @torch.inference_mode()
    def _evaluate(self) -> float | None:
        data = self.eval_data
        if data is None:
            return None
        # Every process measures all samples: none waits for another's buffers.
        module = self.imported.on_samples.eval()
        outputs = []
        for start in range(0, len(data), 512):
            inputs, _ = data.batch(slice(start, start + 512))
            tensors = [
                torch.from_numpy(inputs[n]).to(self.accelerator.device)
                for n in self.imported.inputs
            ]
            output = self.goal.rows(module(*tensors)[self.output])
            outputs.append(output.float().cpu().numpy())
        answers = np.concatenate(outputs)
        original = self.teacher.outputs_for(data, self.imported.inputs) if self.teacher else None
        return self.goal.measure(answers, data.labels, original)

    def _tick(self, phase: Phase, solver: Solver | None) -> None:
        at = self.position
        total = sum(p.length for p in self.phases)
        text = f"{phase_name(phase)} epoch {at.epoch + 1}/{phase.epochs}, loss {at.loss_sum / at.batch:.4f}"
        if solver is not None:
            text += f", ρ {solver.rho:.2g}"
            if at.residuals:
                text += f", primal {at.residuals['primal']:.2g}, dual {at.residuals['dual']:.2g}"
                text += farthest(at.constraints)
        before = sum(p.length for p in self.phases[: at.phase])
        done = before + at.epoch * phase.steps_per_epoch + at.batch
        self.progress.tick(Tick(done, total, text))

    # --- checkpoints

    def _maybe_stop(self, descent: Descent, index: np.ndarray[Any, Any]) -> None:
        try:
            self.stop.check()
        except BaseException:
            if self._is_sound(descent, index):
                self._save(descent)
            raise
        if time.monotonic() - self._saved_at > self._interval_s and self._is_sound(descent, index):
            self._save(descent)

    def _is_sound(self, descent: Descent, index: np.ndarray[Any, Any]) -> bool:
        """Whether the state after a step is one to go on from; else the checkpoint before stays the last.

        What diverged is told by the next step, or at the end of the epoch: not when a clock says so.
        """
        try:
            descent.look(self.module, index, alone=True)
        except DivergedError:
            return False
        return True

    def _save(self, descent: Descent | None) -> None:
        if self.store is None or not self.accelerator.is_main_process:
            return
        started = time.monotonic()
        now = self._capture(descent)
        if self._good is not None:
            # Where a run goes back to belongs to its state: resumed, it must go back to the same.
            good = Prefixed("good.", self._good.tensors)
            now.state["good"] = self._good.state
            # Only the first of a chain is ever written to.
            now = replace(now, tensors=ChainMap({}, now.tensors, good))  # type: ignore[arg-type]
        self.store.save(now)
        self._saved_at = time.monotonic()
        self._cost_s = self._saved_at - started
        self._interval_s = max(CHECKPOINT_INTERVAL_S, self._cost_s / CHECKPOINT_SHARE)

    def _is_dear(self) -> bool:
        """Whether a checkpoint now would take more than its share, judged by the last: it can wait, at some loss."""
        passed = time.monotonic() - self._saved_at
        return self._cost_s > CHEAP_S and passed < self._cost_s / CHECKPOINT_SHARE

    def _put_aside(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return a copy that training doesn't change, on the disk: in memory it would be all weights and duals again."""
        return replace(checkpoint, tensors=put_on_disk(checkpoint.tensors, self.settings.scratch))

    def _capture(self, descent: Descent | None) -> Checkpoint:
        """Return the state of the run; training goes on to change its tensors in place."""
        tensors: dict[str, Tensor] = {f"weight.{n}": w for n, w in self.imported.state.items()}
        tensors.update(self.holding.tensors())
        state: dict[str, Any] = {
            "position": asdict(self.position),
            "history": [asdict(r) for r in self.history],
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        if descent is not None:
            held, plain = descent.pack()
            tensors.update(held)
            state.update(plain)
        return Checkpoint(self.position.step, tensors, state)

    @torch.no_grad()
    def _restore_weights(self, checkpoint: Checkpoint) -> None:
        for name, weight in self.imported.state.items():
            weight.copy_(checkpoint.tensors[f"weight.{name}"])
        self.holding.restore(checkpoint)
        self.position = _read(_POSITION, checkpoint.state["position"])
        self.history = _read(_HISTORY, checkpoint.state["history"])
        if self.accelerator.scaler is not None and "scaler" in checkpoint.state:
            self.accelerator.scaler.load_state_dict(checkpoint.state["scaler"])


def _read(kind: TypeAdapter[_T], value: object) -> _T:
    """Return JSON values as what they were; strictly."""
    return kind.validate_json(json.dumps(value), strict=True)


def _put_channels_innermost(weights: Mapping[str, torch.nn.Parameter]) -> None:
    """Lay the weights of two-dimensional convolutions out so that pooling and depthwise ones run faster on a CPU."""
    for weight in weights.values():
        if weight.dim() == 4:  # noqa: PLR2004
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
