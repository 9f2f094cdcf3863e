"""The whole flow, a stage a line. The only place that knows every stage."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx_ir as ir

from onnxadmm import bench, ops
from onnxadmm._version import __version__
from onnxadmm.channels import dead_labels
from onnxadmm.compact import (
    TOLERANCE,
    Account,
    Proof,
    account,
    compare_outputs,
    cut_channels,
    expand_channels,
    prove,
)
from onnxadmm.data import Dataset, fingerprint
from onnxadmm.errors import InputError, UnsupportedError, VerificationError
from onnxadmm.graph import (
    Probe,
    complete_outputs,
    constant_of,
    load_model,
    model_bytes,
    probe,
    random_inputs,
    real_inputs,
)
from onnxadmm.pipeline import facts
from onnxadmm.pipeline.analysis import (
    Analysis,
    analyse,
    channel_targets,
    quantize_rules,
    trainable_weights,
)
from onnxadmm.pipeline.output import check_output, locked, write_all
from onnxadmm.pipeline.request import (
    ModelLike,
    Request,
    Samples,
    SpecLike,
    load_samples,
    output_index,
    resolve,
)
from onnxadmm.progress import NeverStop, Progress, Silent, StopRequest, Tick
from onnxadmm.report import Report, Stage, Verification, render_all
from onnxadmm.spec import dump_spec

if TYPE_CHECKING:
    from torch import Tensor

    from onnxadmm.admm import Constraint
    from onnxadmm.modules import Imported
    from onnxadmm.training import CheckpointStore, EpochRecord, Settings, Teacher

Array = np.ndarray[Any, Any]

IMPORT_TOLERANCE = 1e-4
"""Largest error of the imported module against ONNX Runtime, relative to the output's largest value."""
PROOF_SAMPLES = 64
EVALUATION_ROWS = 1024
FINISHED = "checkpoints/finished"
"""Written last: what the folder's result belongs to, and its hash."""
EVALUATION_BATCH = 64
IMPORT_SAMPLES = 8


@dataclass(frozen=True)
class Result:
    """What a compression leaves.

    Attributes:
        model: The compressed graph.
        pruned: The graph after cutting and before quantization; the same where nothing is quantized.
        report: All that was measured.
        files: What the output folder receives: name -> content.
    """

    model: ir.Model
    pruned: ir.Model
    report: Report
    files: dict[str, bytes | str] = field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether every gate was passed."""
        return all(g.passed for g in self.report.gates)

    def save(self, folder: str | Path) -> None:
        """Write the model and the reports into a folder."""
        target = Path(folder)
        check_output(target, None)
        with locked(target):
            write_all(target, self.files)


def compress(
    model: ModelLike,
    spec: SpecLike,
    *,
    output: str | Path | None = None,
    overrides: Iterable[str] = (),
    resume: bool = False,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
) -> Result:
    """Compress a model as the spec says, prove the result, measure it, and judge the gates.

    Args:
        model: An ONNX file, or a graph in memory. It is never modified.
        spec: A YAML or JSON file, a mapping, or a `Spec`.
        output: A folder for the result and for checkpoints; without it nothing is written.
        overrides: `key=value` pairs over the spec.
        resume: Go on from the folder's newest checkpoint.
        progress: Listens to what happens.
        stop: Asked during training whether the run shall stop; its state is saved before it does.

    Returns:
        The compressed graph with its report. A gate that failed doesn't raise: see `Result.passed`.

    Raises:
        OnnxadmmError: See `onnxadmm.errors`.
    """
    request = resolve(model, spec, overrides)
    listener = progress or Silent()
    if output is None:
        return _Run(request, listener, None, resume=False, stop=stop).run()
    folder = Path(output)
    source = (
        Path(cast("str", model))
        if not isinstance(model, ir.Model) and not hasattr(model, "graph")
        else None
    )
    check_output(folder, source)
    with locked(folder):
        result = _Run(request, listener, folder, resume=resume, stop=stop).run()
        write_all(folder, result.files)
    return result


class _Run:
    """One compression. Its methods are the stages, in order."""

    def __init__(
        self,
        request: Request,
        progress: Progress,
        folder: Path | None,
        *,
        resume: bool,
        stop: StopRequest | None,
    ) -> None:
        self.request = request
        self.spec = request.spec
        self.progress = progress
        self.folder = folder
        self.resume = resume
        self.stop = stop or NeverStop()
        self.stages: list[Stage] = []
        self.warnings: list[str] = []
        self.history: list[EpochRecord] = []
        self.import_error: float | None = None
        self.sparse: set[str] = set()
        self.seen: Mapping[str, tuple[int, ...]] = {}
        self.imported: Imported | None = None
        self.teacher: Teacher | None = None
        self.settings: Settings | None = None
        self.identity: dict[str, str] = {}

    def run(self) -> Result:
        """Go through all stages."""
        with self._stage("analyse"):
            analysis = analyse(self.request.model)
            targets = channel_targets(analysis, self.spec)
            rules = quantize_rules(analysis, self.spec)
            self.seen = analysis.probe.shapes
            complete_outputs(self.request.model, self.seen)
            if any(p.structure == "unstructured" for p in self.spec.prune):
                self._warn(
                    "unstructured zeros bring no speed: ONNX Runtime has no sparse kernels; "
                    "structure: channel does"
                )
        with self._stage("data"):
            samples = load_samples(self.request, analysis.probe)
            self.identity = self._identity(samples)
        finished = self._finished()
        if finished is not None:
            self.progress.note("this run was finished before; nothing to do")
            return finished
        kept, trained = self._decide(analysis, targets, samples)
        with self._stage("cut"):
            dead = dead_labels(analysis.classes, kept)
            pruned = cut_channels(trained, analysis.labelling, analysis.probe, dead)
            seen = probe(pruned)
        pruned = self._retrain(pruned, seen, samples)
        with self._stage("prove"):
            masked = expand_channels(trained, analysis.labelling, dead, pruned)
            proof = prove(masked, pruned, self._proof_feeds(samples))
        with self._stage("quantize"):
            compressed = self._quantize(pruned, rules, samples)
        with self._stage("evaluate"):
            models = {"original": self.request.model, "pruned": pruned, "compressed": compressed}
            if compressed is pruned:
                del models["pruned"]
            metrics = self._evaluate(models, samples)
        with self._stage("benchmark"):
            timings = self._benchmark(models, samples)
        accounts = self._accounts(models, analysis.probe, seen)
        sizes = {name: int(mask.sum()) for name, mask in kept.items()}
        report = self._report(
            analysis=analysis,
            kept=sizes,
            proof=proof,
            accounts=accounts,
            metrics=metrics,
            timings=timings,
        )
        files: dict[str, bytes | str] = {"spec.yaml": dump_spec(self.spec)}
        if compressed is not pruned:
            files["model.float.onnx"] = model_bytes(pruned)
        files.update(render_all(report))
        files["model.onnx"] = model_bytes(compressed)
        files[FINISHED] = self._receipt(files)
        return Result(compressed, pruned, report, files)

    # --- stages

    def _decide(
        self, analysis: Analysis, targets: Mapping[str, int], samples: Samples | None
    ) -> tuple[dict[str, Array], ir.Model]:
        """Find which channels stay and the weights that go with them, by training or in one shot.

        Returns:
            Class name -> mask of the channels that stay, and the graph with its new weights.
        """
        import torch

        from onnxadmm.admm import Unstructured, kept_channels
        from onnxadmm.modules import write_back
        from onnxadmm.pipeline.limits import constraints

        shapes = trainable_weights(self.request.model)
        sets = constraints(analysis, self.spec, shapes, targets)
        self.sparse = {c.tensor for c in sets if isinstance(c, Unstructured)}
        trained = self.request.model.clone()
        if samples is not None and sets:
            self._prepare_training(analysis.probe, samples)
        if self.settings is None or not self.spec.schedule.epochs:
            with self._stage("project"):
                values = ops.weights(trained)
                weights = {n: torch.from_numpy(np.array(constant_of(values[n]))) for n in shapes}
                masks: dict[str, torch.Tensor] = {}
                for c in sets:
                    for n, mask in c.masks({t: weights[t] for t in c.tensors}).items():
                        masks[n] = mask if n not in masks else masks[n] & mask
                new = {n: (weights[n] * mask).numpy() for n, mask in masks.items()}
        else:
            masks, new = self._train(sets)
        write_back(trained, new)
        kept = {
            c.name: kept_channels(c, masks).numpy() for c in analysis.classes if c.name in targets
        }
        return kept, trained

    def _prepare_training(self, seen: Probe, samples: Samples) -> None:
        """Import the original, compare it with ONNX Runtime, and let it teach."""
        from onnxadmm.modules import import_model
        from onnxadmm.training import Settings, Teacher

        schedule, data = self.spec.schedule, self.spec.data
        if data is None or not (schedule.epochs or schedule.retrain):
            return
        self.settings = Settings(
            train=samples.train,
            evaluate=samples.evaluate,
            batch_size=data.batch_size,
            objective=self.spec.objective,
            output=output_index(self.spec, self.request.model),
            schedule=schedule,
            seed=self.spec.seed,
            progress=self.progress,
            stop=self.stop,
        )
        with self._stage("import"):
            self.imported = import_model(self.request.model, seen)
            self.import_error = self._check_import(self.request.model, self.imported, samples.train)
            module, objective = self.imported.module, self.spec.objective
            self.teacher = Teacher.of(module, objective, self.settings.output)
            if self.teacher is not None:
                self.teacher.prepare(samples.train, self.imported.inputs)

    def _train(self, sets: Sequence[Constraint]) -> tuple[dict[str, Tensor], dict[str, Array]]:
        """Train the original towards its constraints by ADMM."""
        from onnxadmm.training import Trainer, plan_admm

        assert self.imported is not None
        assert self.settings is not None
        with self._stage("train"):
            result = Trainer(
                self.imported,
                plan_admm(self.spec.schedule),
                settings=self.settings,
                constraints=sets,
                teacher=self.teacher,
                store=self._store("admm"),
            ).run()
        self.history += result.history
        return {n: m.cpu() for n, m in result.masks.items()}, self.imported.weights()

    def _retrain(self, pruned: ir.Model, seen: Probe, samples: Samples | None) -> ir.Model:
        """Retrain what is left.

        The papers retrain the whole network under its mask (arXiv 1804.03294, section 3.4). The cut
        network computes the same and has no masked channel left, so each step costs only what it must;
        single zeros stay masked.
        """
        from onnxadmm.modules import import_model, write_back
        from onnxadmm.training import Trainer, plan_retraining

        phases = plan_retraining(self.spec.schedule)
        if self.settings is None or samples is None or not phases:
            return pruned
        with self._stage("retrain"):
            imported = import_model(pruned, seen)
            self._check_import(pruned, imported, samples.train)
            result = Trainer(
                imported,
                phases,
                settings=self.settings,
                masks={n: imported.binding[n].detach() != 0 for n in sorted(self.sparse)},
                teacher=self.teacher,
                store=self._store("retrain"),
                first_epoch=len(self.history) + 1,
            ).run()
            self.history += result.history
            retrained = pruned.clone()
            write_back(retrained, imported.weights())
        return retrained

    def _store(self, name: str) -> CheckpointStore | None:
        """Return where a stage's checkpoints go; those of an earlier run go unless it is resumed."""
        import torch

        from onnxadmm.training import CheckpointStore

        if self.folder is None:
            return None
        # What comes after training may change between a run and its resumption.
        identity = {n: v for n, v in self.identity.items() if n != "whole spec"}
        identity["threads"] = str(torch.get_num_threads())
        store = CheckpointStore(self.folder / "checkpoints" / name, identity)
        if not self.resume:
            store.clear()
        return store

    def _check_import(self, model: ir.Model, imported: Imported, data: Dataset) -> float:
        """Compare a torch module with ONNX Runtime on real samples, before anything is trained."""
        import torch

        inputs, _ = data.batch(slice(0, self._rows(IMPORT_SAMPLES, len(data))))
        session = bench.open_session(model_bytes(model), name="the imported model")
        expected = session.run(list(imported.outputs), inputs)
        imported.module.eval()
        with torch.inference_mode():
            got = imported.module(*(torch.from_numpy(inputs[n]) for n in imported.inputs))
        error = compare_outputs(expected, [np.asarray(g.numpy()) for g in got])
        if not error <= IMPORT_TOLERANCE:
            raise VerificationError(
                f"the imported model differs from ONNX Runtime by {error:.2g} of the largest output (allowed "
                f"{IMPORT_TOLERANCE:g}); this is a bug in onnxadmm, please report the model"
            )
        return error

    def _quantize(
        self, pruned: ir.Model, rules: Sequence[Any], samples: Samples | None
    ) -> ir.Model:
        if not rules or samples is None:
            return pruned
        from onnxadmm.quantize import quantize

        wanted = min(max(rule.activations.samples for rule, _ in rules), len(samples.train))
        step = self._rows(64, wanted)
        whole = range(0, wanted - step + 1, step)
        feeds = (samples.train.batch(slice(s, s + step))[0] for s in whole)
        result = quantize(pruned, rules, feeds)
        for text in result.notes:
            self._warn(text)
        return result.model

    def _evaluate(
        self, models: Mapping[str, ir.Model], samples: Samples | None
    ) -> dict[str, dict[str, float]]:
        """Measure the spec's metric on the held-out samples, in ONNX Runtime."""
        from onnxadmm.training import measure

        if samples is None or samples.evaluate is None:
            return {name: {} for name in models}
        data, metric = samples.evaluate, self.spec.objective.resolved_metric
        output = (
            self.request.model.graph.outputs[output_index(self.spec, self.request.model)].name or ""
        )
        # A round number of the model's own batches, and never the whole set at once.
        own = self._fixed_batch() or 1
        chunk = own * -(-EVALUATION_ROWS // own)
        original: Array | None = None
        found: dict[str, dict[str, float]] = {}
        for done, (name, model) in enumerate(models.items()):
            session = bench.open_session(model_bytes(model), name=f"the {name} model")
            parts = [
                bench.run_batched(session, data.batch(slice(s, s + chunk))[0], EVALUATION_BATCH)[
                    output
                ]
                for s in range(0, len(data), chunk)
            ]
            got = np.concatenate(parts)
            original = got if original is None else original
            value = measure(metric, got, data.labels, original)
            found[name] = {} if value is None else {metric: value}
            text = name if value is None else f"{name}: {metric} {value:.4f}"
            self._tick(done + 1, len(models), text)
        return found

    def _benchmark(
        self, models: Mapping[str, ir.Model], samples: Samples | None
    ) -> Sequence[bench.Comparison | bench.Unmeasured]:
        """Time the models in pairs, interleaved, each in a process of its own."""
        settings = facts.settings(self.spec)
        if samples is None and settings:
            self.progress.note("no data: timing with random inputs")
        done = 0

        def tell(text: str) -> None:
            nonlocal done
            done += 1
            self._tick(done, 0, text)

        return bench.compare(
            {name: model_bytes(m) for name, m in models.items()},
            settings,
            lambda n: self._feed(n, samples),
            rounds=self.spec.benchmark.rounds,
            seed=self.spec.seed,
            progress=tell,
        )

    def _accounts(
        self, models: Mapping[str, ir.Model], before: Probe, after: Probe
    ) -> dict[str, Account]:
        """Count parameters and MACs; an int8 graph has those of its float one, and its own file."""
        original = account(models["original"], before)
        pruned = models.get("pruned", models["compressed"])
        cut = account(pruned, after)
        compressed = Account(
            len(model_bytes(models["compressed"])),
            cut.parameters,
            cut.nonzero_parameters,
            cut.macs,
            cut.uncounted,
        )
        if original.uncounted:
            self._warn(f"MACs of {', '.join(original.uncounted)} are not counted")
        return {"original": original, "pruned": cut, "compressed": compressed}

    def _report(
        self,
        *,
        analysis: Analysis,
        kept: Mapping[str, int],
        proof: Proof,
        accounts: Mapping[str, Account],
        metrics: Mapping[str, Mapping[str, float]],
        timings: Sequence[bench.Comparison | bench.Unmeasured],
    ) -> Report:
        original = facts.model_facts("original", accounts["original"], metrics["original"], timings)
        compressed = facts.model_facts(
            "compressed", accounts["compressed"], metrics["compressed"], timings
        )
        pruned = None
        if "pruned" in metrics:
            pruned = facts.model_facts("pruned", accounts["pruned"], metrics["pruned"], timings)
        report = Report(
            onnxadmm=__version__,
            created=datetime.now(UTC).date().isoformat(),
            model=self.request.name,
            spec=self.spec.model_dump(mode="json", exclude_none=True),
            seed=self.spec.seed,
            original=original,
            compressed=compressed,
            pruned=pruned,
            ratios=facts.ratios("compressed", original, compressed, timings),
            pruned_ratios=facts.ratios("pruned", original, pruned, timings) if pruned else None,
            verification=Verification(
                cut_vs_masked_max_error=proof.max_error,
                import_max_error=self.import_error,
                tolerance=TOLERANCE,
                import_tolerance=IMPORT_TOLERANCE,
                samples=proof.samples,
                passed=True,
            ),
            channels=tuple(facts.reported_classes(analysis.classes, kept)),
            history=tuple(facts.epochs(self.history)),
            warnings=tuple(self.warnings),
            unmeasured=tuple(facts.unmeasured(timings)),
            stages=tuple(self.stages),
            environment=bench.environment(),
        )
        return facts.judged(report, self.spec)

    # --- inputs

    def _fixed_batch(self) -> int | None:
        """Return the batch size that the model insists on, or None where it is open."""
        for value in self.request.model.graph.inputs:
            if value.name in self.request.model.graph.initializers or value.shape is None:
                continue
            if len(value.shape) and isinstance(value.shape[0], int) and value.shape[0] > 0:
                return value.shape[0]
        return None

    def _rows(self, wanted: int, there: int) -> int:
        """Return how many samples to feed at once."""
        fixed = self._fixed_batch()
        if fixed is not None and fixed > there:
            raise UnsupportedError(
                f"the model takes batches of {fixed} and the data has {there} samples; give more data"
            )
        return fixed or max(1, min(wanted, there))

    def _feed(self, batch: int, samples: Samples | None) -> dict[str, Array]:
        """Return inputs for a batch: real samples, repeated if there are too few; else random ones."""
        if samples is None:
            rng = np.random.default_rng(self.spec.seed)
            return random_inputs(self.request.model, self._shapes(batch), rng)
        data = samples.evaluate or samples.train
        inputs, _ = data.batch(np.arange(batch) % len(data))
        return inputs

    def _proof_feeds(self, samples: Samples | None) -> list[dict[str, Array]]:
        """Return real inputs where there are some, and always random ones."""
        rng = np.random.default_rng([self.spec.seed, 1])
        drawn = random_inputs(self.request.model, self._shapes(None), rng)
        # Some models take a logarithm or a root of what they are given: positive values as well.
        positive = {
            n: np.asarray(np.abs(a)) if a.dtype.kind == "f" else a for n, a in drawn.items()
        }
        feeds = [drawn, positive]
        if samples is not None:
            data = samples.evaluate or samples.train
            inputs, _ = data.batch(slice(0, self._rows(PROOF_SAMPLES, len(data))))
            feeds.append(inputs)
        return feeds

    def _shapes(self, batch: int | None) -> dict[str, tuple[int, ...]]:
        """Return shapes that the model ran with, for another batch size where it is open."""
        shapes: dict[str, tuple[int, ...]] = {}
        for value in real_inputs(self.request.model):
            shape = self.seen[value.name or ""]
            free = (
                value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int)
            )
            shapes[value.name or ""] = (batch, *shape[1:]) if batch and free else shape
        return shapes

    def _identity(self, samples: Samples | None) -> dict[str, str]:
        """Return what a stored run belongs to: everything that its result depends on."""
        document = self.spec.model_dump(mode="json")
        trained = {n: document[n] for n in ("data", "objective", "prune", "schedule", "seed")}
        evaluated = samples.evaluate if samples else None
        return {
            "model": self.request.digest,
            "spec": _digest(json.dumps(trained, sort_keys=True).encode()),
            "whole spec": _digest(json.dumps(document, sort_keys=True).encode()),
            "data": fingerprint(samples.train) if samples else "none",
            "evaluation data": fingerprint(evaluated) if evaluated else "none",
            "onnxadmm version": __version__,
            "torch version": installed_version("torch"),
            "onnxruntime version": str(bench.environment()["onnxruntime"]),
            "python version": platform.python_version(),
        }

    def _receipt(self, files: Mapping[str, bytes | str]) -> str:
        model = files["model.onnx"]
        assert isinstance(model, bytes)
        return json.dumps({**self.identity, "result": _digest(model)}, indent=1) + "\n"

    def _finished(self) -> Result | None:
        """Return the folder's result where this very run has finished before."""
        if not self.resume or self.folder is None:
            return None
        try:
            receipt = json.loads((self.folder / FINISHED).read_text(encoding="utf-8"))
            result = receipt.pop("result")
            content = (self.folder / "model.onnx").read_bytes()
            report = Report.from_json((self.folder / "report.json").read_bytes())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
            return None
        if receipt != self.identity or result != _digest(content):
            return None
        compressed = load_model(self.folder / "model.onnx")
        floats = self.folder / "model.float.onnx"
        pruned = load_model(floats) if report.pruned is not None and floats.exists() else compressed
        return Result(compressed, pruned, report, {})

    # --- telling

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.progress.stage(name)
        started = time.monotonic()
        yield
        self.stages.append(Stage(name=name, seconds=time.monotonic() - started))

    def _tick(self, done: int, total: int, text: str) -> None:
        self.progress.tick(Tick(done, total, text))

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.progress.warn(text)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
