"""The whole flow, a stage a line. The only place that knows every stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import onnx_ir as ir

from onnxadmm import bench, ops
from onnxadmm._version import __version__
from onnxadmm.channels import Pool
from onnxadmm.compact import (
    TOLERANCE,
    Account,
    Packing,
    Proof,
    account,
    prove,
    unproven,
)
from onnxadmm.errors import SpecError
from onnxadmm.graph import IMPORT_TOLERANCE, Content, model_contents, probe
from onnxadmm.pipeline import facts
from onnxadmm.pipeline.analysis import (
    Analysis,
    channel_pools,
    channel_steps,
    channel_targets,
    quantize_rules,
)
from onnxadmm.pipeline.code import announce
from onnxadmm.pipeline.foreseeing import (
    Foreseen,
    foresee,
    inherent,
    peculiarities,
    with_measured,
)
from onnxadmm.pipeline.inputs import Inputs
from onnxadmm.pipeline.integers import make_int8, store_small
from onnxadmm.pipeline.journal import Journal
from onnxadmm.pipeline.masters import Masters
from onnxadmm.pipeline.measuring import Evaluation, accounts, evaluate, time_models, with_calls
from onnxadmm.pipeline.output import check_output, locked, write_all
from onnxadmm.pipeline.packing import pack
from onnxadmm.pipeline.processes import is_worker, leave_the_rest_to_main
from onnxadmm.pipeline.receipts import FINISHED, finished, identity, receipt
from onnxadmm.pipeline.request import (
    ModelLike,
    Request,
    Samples,
    SpecLike,
    load_samples,
    resolve,
)
from onnxadmm.pipeline.surgery import plan_surgery
from onnxadmm.pipeline.unfinished import Course
from onnxadmm.progress import NeverStop, Progress, Silent, StopRequest
from onnxadmm.quantize import require_opset
from onnxadmm.report import PackedTensor, Report, Verification, render_all
from onnxadmm.spec import Quantize, dump_spec

if TYPE_CHECKING:
    from onnxadmm.pipeline.learning import Learner


@dataclass(frozen=True)
class _Checked:
    """What the checks of a request found: all that a run needs to know before it trains."""

    masters: Masters
    analysis: Analysis
    targets: Mapping[str, int]
    pools: Sequence[Pool]
    rules: list[tuple[Quantize, set[str]]]
    foreseen: Sequence[Foreseen]
    samples: Samples | None
    belongs: Mapping[str, str]


@dataclass(frozen=True)
class Result:
    """What a compression leaves.

    Attributes:
        model: The compressed graph.
        pruned: The graph after cutting and before quantization and packing; the same where neither was done.
        report: All that was measured.
        files: What the output folder receives: name -> content.
    """

    model: ir.Model
    pruned: ir.Model
    report: Report
    files: dict[str, Content] = field(repr=False)

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
    restart: bool = False,
    checkpoints: bool = True,
    allow_code: bool = False,
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
        restart: Drop the checkpoints of a run in the folder that was not finished, and start anew; without either
            it is refused.
        checkpoints: Whether the folder gets checkpoints: a run without them takes less of the disk and can't be
            resumed.
        allow_code: Whether functions that the spec names may run, from Python files in the spec's folder.
        progress: Listens to what happens.
        stop: Asked between steps and stages whether the run shall stop; in training the state is saved before it does.

    Returns:
        The compressed graph with its report. A gate that failed doesn't raise: see `Result.passed`.

    Raises:
        OnnxadmmError: See `onnxadmm.errors`.
    """
    request = resolve(model, spec, overrides, allow_code=allow_code)
    worker = is_worker()
    listener = Silent() if worker or progress is None else progress
    stopping = stop or NeverStop()
    journal = Journal(listener, stopping)
    if output is None:
        return _run(request, journal, stopping, None, Course())
    folder = Path(output)
    if resume and not checkpoints:
        raise SpecError("resume: it needs the checkpoints that are switched off; give one of both")
    course = Course(resume, restart, checkpoints)
    source = (
        Path(cast("str", model))
        if not isinstance(model, ir.Model) and not hasattr(model, "graph")
        else None
    )
    check_output(folder, source)
    with contextlib.nullcontext() if worker else locked(folder):
        result = _run(request, journal, stopping, folder, course)
        write_all(folder, result.files)
    return result


def _run(
    request: Request,
    journal: Journal,
    stop: StopRequest,
    folder: Path | None,
    course: Course,
) -> Result:
    """Check what came in, then go through the other stages."""
    checked = _check(request, journal)
    done = finished(folder, checked.belongs) if course.resume and folder is not None else None
    if done is not None:
        journal.progress.note("this run was finished before; nothing to do")
        return Result(*done, {})
    ran = checked.analysis.probe
    pace = bench.Pace(ran.seconds, sum(a.size for a in ran.inputs.values()))
    with bench.paced(pace):
        return _carry_out(request, checked, journal, stop, folder=folder, course=course)


def _check(request: Request, journal: Journal) -> _Checked:
    """Find what is wrong with the model, the spec and the data before anything is trained."""
    from onnxadmm.training import check_schedule

    spec = request.spec
    announce(request.functions, journal.progress)
    with journal.stage("analyse"):
        check_schedule(spec.schedule)
        masters = Masters(request, journal)
        analysis = masters.analyse()
        targets = channel_targets(analysis, spec)
        pools = channel_pools(masters.request.model, analysis, spec)
        rules = quantize_rules(analysis, spec)
        if spec.int8:
            require_opset(request.model)
        foreseen = [
            *inherent(request.model, account(request.model, analysis.probe)),
            *foresee(spec, analysis.classes, targets, analysis.layers),
        ]
        for text in (
            *peculiarities(request.model, ops.weights(request.model)),
            *(w.text for w in foreseen),
        ):
            journal.warn(text)
    with journal.stage("data", asked=spec.data is not None):
        samples = load_samples(request, analysis.probe)
        belongs = identity(request, samples)
    return _Checked(masters, analysis, targets, pools, rules, foreseen, samples, belongs)


def _carry_out(
    request: Request,
    checked: _Checked,
    journal: Journal,
    stop: StopRequest,
    *,
    folder: Path | None,
    course: Course,
) -> Result:
    """Go through the stages that follow the checks of what came in."""
    spec, original = request.spec, request.model
    masters, analysis, samples = checked.masters, checked.analysis, checked.samples
    # torch takes seconds to load: what is wrong with the model or the spec has been said by now.
    from onnxadmm.pipeline.learning import Learner

    ran = analysis.probe
    inputs = Inputs(original, ran.shapes, samples, spec.seed, zeros=ran.zeros)
    wide, feeds = masters.feeds(analysis.probe, samples)
    learner = Learner(masters.request, wide, feeds, journal=journal, stop=stop)
    if folder is not None:
        learner.keep_checkpoints(folder, checked.belongs, course)
    kept, trained = learner.decide(analysis, checked.targets, checked.pools, checked.rules)
    with journal.stage("cut"):
        steps = channel_steps(analysis, spec)
        surgery = plan_surgery(analysis, trained, kept, steps, feeds=feeds.proof(), journal=journal)
        pruned, kept = surgery.cut(), surgery.kept
        seen = probe(pruned)
    pruned = learner.retrain(pruned, seen)
    pruned, on_levels = learner.quantize(pruned, seen, checked.rules)
    leave_the_rest_to_main()
    with journal.stage("prove"):
        reference = surgery.reference(pruned)
        proof = prove(reference, pruned, feeds.proof(), further=feeds.other_batch())
        for text in unproven(proof):
            journal.warn(text)
        pruned = masters.restore(pruned, surgery)
    with journal.stage("quantize", asked=bool(spec.quantize)):
        compressed = make_int8(
            pruned, checked.rules, request, samples, inputs, trained=on_levels, journal=journal
        )
        compressed = store_small(compressed, on_levels, request, journal)
    with journal.stage("pack", asked=spec.pack != "none"):
        compressed, packing = pack(compressed, spec, inputs, journal)
    models = {"original": original, "pruned": pruned, "compressed": compressed}
    if compressed is pruned:
        del models["pruned"]
    held_out = samples is not None and samples.evaluate is not None
    with journal.stage("evaluate", asked=held_out):
        evaluation = evaluate(models, request, samples, inputs, journal)
    with journal.stage("benchmark", asked=bool(spec.benchmark.providers)):
        timings = time_models(models, request, samples, inputs, journal)
    counted = accounts(models, request, analysis.probe, seen, journal)
    with_calls(models, request.calls, counted)
    report = _report(
        request,
        analysis=analysis,
        kept={name: int(mask.sum()) for name, mask in kept.items()},
        learner=learner,
        proof=proof,
        packing=packing,
        accounts=counted,
        evaluation=evaluation,
        timings=timings,
        kinds={name: facts.computes_in(model) for name, model in models.items()},
        foreseen=checked.foreseen,
        journal=journal,
    )
    files: dict[str, Content] = {"spec.yaml": dump_spec(spec)}
    if compressed is not pruned:
        files.update(model_contents(pruned, "model.float.onnx"))
    files.update(render_all(report))
    files.update(result := model_contents(compressed))
    files[FINISHED] = receipt(checked.belongs, result)
    return Result(compressed, pruned, report, files)


def _report(
    request: Request,
    *,
    analysis: Analysis,
    kept: Mapping[str, int],
    learner: Learner,
    proof: Proof,
    packing: Sequence[Packing],
    accounts: Mapping[str, Account],
    evaluation: Evaluation,
    timings: Sequence[bench.Comparison | bench.Unmeasured],
    kinds: Mapping[str, bench.Kind],
    foreseen: Sequence[Foreseen],
    journal: Journal,
) -> Report:
    """Put together what the stages found, and judge the gates."""
    metrics, changes = evaluation.metrics, evaluation.changes
    found = {
        name: facts.model_facts(name, accounts[name], metrics[name], timings, kind)
        for name, kind in kinds.items()
    }
    original, compressed, pruned = found["original"], found["compressed"], found.get("pruned")
    ratios = facts.ratios("compressed", original, compressed, timings, changes["compressed"])
    for warning in foreseen:
        journal.complete(warning.text, with_measured(warning, timings, ratios.macs))
    report = Report(
        onnxadmm=__version__,
        created=datetime.now(UTC).date().isoformat(),
        model=request.name,
        spec=request.spec.model_dump(mode="json", exclude_none=True),
        seed=request.spec.seed,
        original=original,
        compressed=compressed,
        pruned=pruned,
        ratios=ratios,
        pruned_ratios=facts.ratios("pruned", original, pruned, timings, changes["pruned"])
        if pruned
        else None,
        verification=Verification(
            cut_vs_masked_max_error=proof.max_error,
            import_max_error=learner.import_error,
            tolerance=TOLERANCE,
            import_tolerance=IMPORT_TOLERANCE,
            samples=proof.samples,
            passed=True,
        ),
        packing=tuple(PackedTensor(**asdict(p)) for p in packing),
        channels=tuple(facts.reported_classes(analysis.classes, kept)),
        history=tuple(facts.epochs(learner.history)),
        warnings=tuple(journal.warnings),
        unmeasured=tuple(facts.unmeasured(timings)),
        stages=tuple(journal.stages),
        environment=bench.environment()
        | {f"code {f.reference}": f.sha256 for f in request.functions.values()},
    )
    return facts.judged(report, request.spec)
