"""The stages that learn: which channels stay, by ADMM or in one shot, and what is left retrained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from onnxadmm import ops
from onnxadmm.admm import (
    Constraint,
    CoupledChannels,
    Grid,
    PooledChannels,
    QuantizedWeight,
    joint_masks,
    kept_channels,
)
from onnxadmm.channels import Pool
from onnxadmm.data import Dataset
from onnxadmm.errors import DataError, SpecError, one_line
from onnxadmm.graph import Probe, constant_of, output_layout
from onnxadmm.graph.constants import compute_constant
from onnxadmm.modules import Imported, compare_with_runtime, for_any_batch, import_model, write_back
from onnxadmm.pipeline.analysis import Analysis, trainable_weights
from onnxadmm.pipeline.foreseeing import untaught
from onnxadmm.pipeline.goals import goal_of, try_functions
from onnxadmm.pipeline.inputs import Inputs
from onnxadmm.pipeline.journal import Journal
from onnxadmm.pipeline.limits import constraints, level_sets
from onnxadmm.pipeline.processes import is_worker
from onnxadmm.pipeline.receipts import training_identity
from onnxadmm.pipeline.request import Request, Samples, output_index
from onnxadmm.pipeline.unfinished import Course, is_unfinished, stage_folders
from onnxadmm.progress import StopRequest
from onnxadmm.quantize import OnLevels
from onnxadmm.spec import Quantize
from onnxadmm.training import (
    Augmentation,
    CheckpointStore,
    EpochRecord,
    Goal,
    Settings,
    Teacher,
    Trainer,
    plan_admm,
    plan_levels,
    plan_retraining,
)
from onnxadmm.training.demand import estimate, require
from onnxadmm.training.room import free_disk, free_memory, within_memory
from onnxadmm.training.teacher import GLANCED

Array = np.ndarray[Any, Any]
Rule = tuple[Quantize, set[str]]


class _Weights(Mapping[str, Tensor]):
    """A graph's held tensors as torch's; each is made when it is asked for, and not kept."""

    def __init__(self, held: Mapping[str, ir.Value]) -> None:
        self.held = held

    def array(self, name: str) -> Array:
        content = constant_of(self.held[name])
        if content is None:
            raise KeyError(name)
        return content

    def __getitem__(self, name: str) -> Tensor:
        content = self.array(name)
        # torch warns of memory that mustn't be written.
        return torch.from_numpy(content if content.flags.writeable else np.array(content))

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)


def _product(content: Array, mask: Array) -> Array:
    return np.asarray(content * mask, content.dtype)


class Learner:
    """Learns for one run. It trains only where the spec has data, epochs and something to prune."""

    def __init__(
        self,
        request: Request,
        samples: Samples | None,
        inputs: Inputs,
        *,
        journal: Journal,
        stop: StopRequest,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            request: Model and spec.
            samples: The spec's data.
            inputs: Feeds to compare runtimes on.
            journal: Listens.
            stop: Asked after every training step.
        """
        self.history: list[EpochRecord] = []
        self.import_error: float | None = None
        self._request, self._samples, self._inputs = request, samples, inputs
        self._journal, self._stop = journal, stop
        self._folder: Path | None = None
        self._saves = False
        self._identity: dict[str, str] = {}
        self._sparse: set[str] = set()
        self._imported: Imported | None = None
        self._teacher: Teacher | None = None
        self._settings: Settings | None = None
        self._layers: Mapping[str, Sequence[str]] = {}
        self._pruned = False

    def keep_checkpoints(self, folder: Path, identity: Mapping[str, str], course: Course) -> None:
        """Write checkpoints under this output folder, if any, and go on from those that are there of this very run.

        It ends with the same bits as one that starts anew, so nothing is lost by that but the time it saves. Those
        of a run that was finished go, of all stages: a run that is resumed later must not meet them.

        Args:
            folder: The output folder.
            identity: What the run belongs to.
            course: What is asked for.

        Raises:
            SpecError: There are some of another run that was not finished, or of this one, which saves none.
        """
        self._folder, self._identity = folder, dict(identity)
        self._saves = course.save
        if course.resume or is_worker():
            return
        if not course.restart and is_unfinished(folder, self._belongs()):
            if not course.save:
                raise SpecError(
                    f"output {one_line(folder, 100)}: holds checkpoints of this run, which was not finished; leave "
                    "--no-checkpoints out to go on from them, or --restart drops them"
                )
            self._journal.progress.note(
                "this run was not finished: it goes on from its checkpoints (--restart drops them)"
            )
            return
        for stage in stage_folders(folder):
            CheckpointStore(stage, identity).clear()

    def decide(
        self,
        analysis: Analysis,
        targets: Mapping[str, int],
        pools: Sequence[Pool] = (),
        rules: Sequence[Rule] = (),
    ) -> tuple[dict[str, Array], ir.Model]:
        """Find which channels stay and the weights that go with them, by training or in one shot.

        Args:
            analysis: The model's channels.
            targets: From `channel_targets`.
            pools: From `channel_pools`.
            rules: From `quantize_rules`; what they ask for is checked here, and done by `quantize`.

        Returns:
            Class name -> mask of the channels that stay, and the graph with its new weights.
        """
        shapes = trainable_weights(self._request.model)
        sets = constraints(
            self._request.model, analysis, self._request.spec, shapes, targets, pools=pools
        )
        by_channel = (CoupledChannels, PooledChannels)
        self._sparse = {n for c in sets if not isinstance(c, by_channel) for n in c.tensors}
        self._layers, self._pruned = analysis.layers, bool(sets)
        levels = level_sets(self._request.model, self._layers, rules, shapes)
        if self._samples is not None and (sets or levels):
            self._prepare(analysis.probe, self._samples, sets, levels)
        trained = self._request.model.clone()
        if self._settings is None or not sets or not self._request.spec.schedule.epochs:
            masks = self._project(sets, trained)
        else:
            masks = self._train(sets, trained)
        pruned = {*targets, *(c.name for p in pools for c in p.classes)}
        kept = {
            c.name: kept_channels(c, masks).numpy() for c in analysis.classes if c.name in pruned
        }
        return kept, trained

    def retrain(self, pruned: ir.Model, seen: Probe) -> ir.Model:
        """Return the cut graph with retrained weights.

        The papers retrain the whole network under its mask (arXiv 1804.03294, section 3.4). The cut
        network computes the same and has no masked channel left, so each step costs only what it must;
        single zeros stay masked.
        """
        if self._settings is None or not self._pruned:
            return pruned
        phases = plan_retraining(self._settings.schedule, self._settings.steps_per_epoch)
        if not phases:
            return pruned
        with self._journal.stage("retrain"), within_memory():
            imported, _ = self._import(pruned, seen)
            result = Trainer(
                imported,
                phases,
                settings=self._settings,
                masks={n: imported.binding[n].detach() != 0 for n in sorted(self._sparse)},
                teacher=self._teacher,
                store=self._store("retrain"),
                first_epoch=len(self.history) + 1,
            ).run()
            self.history += result.history
            retrained = pruned.clone()
            write_back(retrained, imported.state, move=True)
        return retrained

    def quantize(
        self, pruned: ir.Model, seen: Probe, rules: Sequence[Rule]
    ) -> tuple[ir.Model, dict[str, OnLevels]]:
        """Bring the weights of the cut graph onto the levels of the spec, and keep its zeros.

        Pruning comes first, then the levels of what is left (arXiv 1811.01907, section 4). Without training weights
        become the closest on levels; those that int8 activations go with are left to the export then.

        Returns:
            The graph, and its weights that lie on levels, by name.
        """
        spec = self._request.spec
        trains = self._settings is not None and bool(spec.level_epochs)
        wanted = rules if trains else [r for r in rules if r[0].int8 is None]
        sets = level_sets(pruned, self._layers, wanted, trainable_weights(pruned))
        if not sets:
            return pruned, {}
        if trains:
            grids, weights = self._train_levels(pruned, seen, sets)
        else:
            held = ops.weights(pruned)
            floats = {
                c.tensor: torch.from_numpy(np.array(constant_of(held[c.tensor]))) for c in sets
            }
            grids = {n: g for c in sets for n, g in c.grids(floats).items()}
            weights = {n: g.nearest(floats[n]).numpy() for n, g in grids.items()}
        quantized = pruned.clone()
        write_back(quantized, weights)
        return quantized, {
            n: OnLevels(g.codes(torch.from_numpy(weights[n])).numpy(), g.scales.numpy())
            for n, g in grids.items()
        }

    def _train_levels(
        self, pruned: ir.Model, seen: Probe, sets: Sequence[QuantizedWeight]
    ) -> tuple[dict[str, Grid], dict[str, Array]]:
        """Train the cut graph towards levels by ADMM, first and last layers last, and then on them."""
        assert self._settings is not None
        spec = self._request.spec
        names = [c.name for c in sets]
        outer = [names[0], names[-1]] if len(names) > 2 else []  # noqa: PLR2004
        inner = [n for n in names if n not in outer]
        with self._journal.stage("train on levels"), within_memory():
            imported, _ = self._import(pruned, seen)
            kept = {n: imported.binding[n].detach() != 0 for n in sorted(self._sparse)}
            kept |= {c.tensor: c.support for c in sets if c.support is not None}
            result = Trainer(
                imported,
                plan_levels(
                    self._settings.schedule,
                    spec.level_epochs,
                    self._settings.steps_per_epoch,
                    inner=inner,
                    outer=outer,
                    first=max((r.step for r in self.history), default=0) + 1,
                ),
                settings=self._settings,
                constraints=sets,
                masks=kept,
                teacher=self._teacher,
                store=self._store("levels"),
                first_epoch=len(self.history) + 1,
            ).run()
        self.history += result.history
        device = torch.device("cpu")
        # The module goes with this call: nobody else writes to its memory.
        weights = {n: t.detach().cpu().numpy() for n, t in imported.state.items()}
        return {n: g.to(device) for n, g in result.grids.items()}, weights

    def _prepare(
        self,
        seen: Probe,
        samples: Samples,
        sets: Sequence[Constraint],
        levels: Sequence[Constraint],
    ) -> None:
        """Import the original, compare it with ONNX Runtime, and let it teach."""
        spec = self._request.spec
        pruning = sets and (spec.schedule.epochs or spec.schedule.retrain)
        if spec.data is None or not (pruning or spec.level_epochs):
            return
        augmentation = None
        if spec.data.augment is not None:
            augmentation = Augmentation(
                spec.data.augment, samples.images, len(samples.train), spec.seed
            )
        self._settings = Settings(
            train=samples.train,
            evaluate=samples.evaluate,
            batch_size=spec.data.batch_size,
            goal=goal_of(self._request),
            output=output_index(spec, self._request.model),
            schedule=spec.resolved_schedule,
            seed=spec.seed,
            progress=self._journal.listener,
            stop=self._stop,
            augmentation=augmentation,
            scratch=self._folder,
        )
        self._require_room(seen, self._settings, sets, levels if spec.level_epochs else ())
        with self._journal.stage("import"), within_memory():
            self._imported, self.import_error = self._import(self._request.model, seen)
            for text in untaught(self._imported.untaught):
                self._journal.warn(text)
            goal = self._settings.goal
            self._teacher = Teacher.of(self._imported.on_samples, goal, self._settings.output)
            if self._teacher is not None and goal.needs_teacher and augmentation is None:
                self._teacher.prepare(samples.train, self._imported.inputs)
            self._settings = replace(self._settings, goal=self._in_units(samples.train, goal))
            rows = next(len(a) for a in self._inputs.first().values() if a.ndim)
            try_functions(self._settings, self._imported, rows)

    def _in_units(self, train: Dataset, goal: Goal) -> Goal:
        """Return the goal with an mse that doesn't depend on the unit of its targets."""
        if goal.objective.loss == "mse":
            return goal.in_units_of(None if train.labels is None else train.labels[:GLANCED])
        if self._teacher is None or self._imported is None or not goal.needs_teacher:
            return goal
        return goal.in_units_of(self._teacher.some(train, self._imported.inputs))

    def _require_room(
        self,
        seen: Probe,
        settings: Settings,
        sets: Sequence[Constraint],
        levels: Sequence[Constraint],
    ) -> None:
        """Refuse training that can't fit, before anything is allocated for it."""
        model, taught = self._request.model, settings.goal.asks_original
        demand = estimate(
            model,
            seen,
            settings.schedule,
            batch_size=settings.batch,
            samples=len(settings.train),
            constrained=[c.tensors for c in sets] if settings.schedule.epochs else (),
            levelled=[c.tensors for c in levels],
            trained=trainable_weights(model),
            teacher_output=model.graph.outputs[settings.output].name if taught else None,
            kept_answers=settings.augmentation is None,
        )
        memory, where = free_memory()
        require(
            demand if self._saves else replace(demand, checkpoints=0),
            memory_bytes=memory,
            disk_bytes=free_disk(self._folder),
            where=where,
        )

    def _project(self, sets: Sequence[Constraint], trained: ir.Model) -> dict[str, Tensor]:
        """Project the weights as they came, in place: one shot, by magnitude."""
        with self._journal.stage("project"):
            weights = _Weights(ops.held(trained))
            masks = joint_masks(sets, weights)
            for name, mask in masks.items():
                if not mask.all():
                    compute_constant(
                        weights.held[name], partial(_product, weights.array(name), mask.numpy())
                    )
        return masks

    def _train(self, sets: Sequence[Constraint], trained: ir.Model) -> dict[str, Tensor]:
        """Train the original towards its constraints by ADMM; the graph gets its weights, and the module goes."""
        assert self._imported is not None
        assert self._settings is not None
        with self._journal.stage("train"), within_memory():
            result = Trainer(
                self._imported,
                plan_admm(self._settings.schedule, self._settings.steps_per_epoch),
                settings=self._settings,
                constraints=sets,
                teacher=self._teacher,
                store=self._store("admm"),
            ).run()
        self.history += result.history
        write_back(trained, self._imported.state, move=True)
        self._imported = None
        return {n: m.cpu() for n, m in result.masks.items()}

    def _store(self, name: str) -> CheckpointStore | None:
        """Return where a stage's checkpoints go."""
        if self._folder is None or not self._saves:
            return None
        return CheckpointStore(self._folder / "checkpoints" / name, self._belongs())

    def _belongs(self) -> dict[str, str]:
        return training_identity(self._identity, torch.get_num_threads())

    def _import(self, model: ir.Model, seen: Probe) -> tuple[Imported, float]:
        """Return a graph's torch module, and how far it is from ONNX Runtime on real samples."""
        train = self._request.spec.train
        imported = import_model(model, seen, statistics=train.statistics == "running")
        for name, role in ops.roles(model).items():
            if role.why == ops.INCLUDED and name not in imported.binding:
                raise SpecError(
                    f"train.include: {one_line(name, 60)!r} is no tensor that {ops.describe(role.readers[0])} "
                    "computes with, but a number that it is built with; leave it out"
                )
        error = self._check_import(model, imported)
        rows = self._inputs.fixed_batch()
        if rows is None:
            return imported, error
        assert self._samples is not None
        data, index = self._samples.train, output_index(self._request.spec, self._request.model)
        axis = output_layout(self._request.model, index).samples

        def sample(count: int) -> dict[str, Array]:
            return data.batch(np.arange(count) % len(data))[0]

        return for_any_batch(imported, rows, output=index, axis=axis, sample=sample), error

    def _check_import(self, model: ir.Model, imported: Imported) -> float:
        """Compare a torch module with ONNX Runtime on real samples, before anything is trained.

        Raises:
            DataError: ONNX Runtime refuses the samples: an index lies outside its table, or sizes disagree.
        """
        imported.module.eval()
        try:
            parity = compare_with_runtime(model, imported, self._inputs.first())
        except RuntimeError as e:
            raise DataError(
                f"data: ONNX Runtime can't run the model on the first samples ({one_line(e, 170)}); check their "
                "shapes and values"
            ) from None
        if parity.nodes is not None:
            self._journal.warn(
                f"outputs of the imported model differ from ONNX Runtime by {parity.outputs:.2g}, since the model "
                f"amplifies rounding; given the same values, each of its nodes agrees within {parity.nodes:.2g}"
            )
        return parity.error
