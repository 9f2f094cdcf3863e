"""Models against the first of them, outside a compression."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx_ir as ir

from onnxadmm import bench
from onnxadmm._version import __version__
from onnxadmm.compact import Account, account
from onnxadmm.errors import SpecError, one_line
from onnxadmm.graph import load_model, probe, real_inputs
from onnxadmm.pipeline import facts
from onnxadmm.pipeline.code import announce
from onnxadmm.pipeline.inputs import Inputs
from onnxadmm.pipeline.journal import Journal
from onnxadmm.pipeline.measuring import Evaluation, evaluate
from onnxadmm.pipeline.output import check_output, locked, write_all
from onnxadmm.pipeline.request import Request, Samples, load_samples, open_model, resolve
from onnxadmm.progress import Progress, Silent
from onnxadmm.report.benchmark import BenchmarkedModel, BenchmarkReport, judged
from onnxadmm.spec import Benchmark, Gates, Provider

Array = np.ndarray[Any, Any]
Feeds = Callable[[int], dict[str, Array]]


@dataclass(frozen=True)
class Wishes:
    """What to time; None leaves it to the spec, and without one to the default."""

    providers: Sequence[str] | None = None
    batch_sizes: Sequence[int] | None = None
    threads: Sequence[int] | None = None
    rounds: int | None = None

    def over(self, given: Benchmark) -> Benchmark:
        """Return the spec's section with these wishes in it.

        Raises:
            SpecError: A provider has no such name.
        """
        for provider in self.providers or ():
            if provider not in get_args(Provider):
                known = ", ".join(get_args(Provider))
                raise SpecError(
                    f"provider {one_line(provider, 40)!r} is unknown; known are {known}"
                )
        wished: dict[str, Any] = {
            "providers": self.providers and tuple(dict.fromkeys(self.providers)),
            "batch_sizes": self.batch_sizes and tuple(dict.fromkeys(self.batch_sizes)),
            "threads": self.threads and tuple(dict.fromkeys(self.threads)),
            "rounds": self.rounds,
        }
        return given.model_copy(update={k: v for k, v in wished.items() if v})


def benchmark(
    paths: Sequence[Path],
    *,
    spec: Path | None = None,
    overrides: Iterable[str] = (),
    wishes: Wishes | None = None,
    output: Path | None = None,
    seed: int = 0,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Time models in pairs, on the data of a spec or on random inputs; see `onnxadmm.bench.compare`.

    Args:
        paths: The models; the first is the baseline, and decides what the data must fit.
        spec: Whose `data` to feed (held-out samples where there are some, repeated up to the batch size) and
            to measure the metric on, whose `benchmark` to follow, and whose `gates` to judge each model
            after the first by.
        overrides: `key=value` pairs over the spec.
        wishes: What to time instead of what the spec says.
        output: A folder for `benchmark.json`, `.html`, `.md` and `.xml`.
        seed: Of the order of runs and of the random inputs.
        allow_code: Whether a metric that is a function may run, from a Python file in the spec's folder.
        progress: Listens to what happens.

    Raises:
        SpecError: The spec is wrong, the models don't take the same inputs, or a provider has no such name.
        InputError: A model or the data can't be used.
        ResourceError: The output can't be written.
    """
    if output is not None:
        check_output(output, None)
        with locked(output):
            found = _measured(
                paths, spec, overrides, wishes or Wishes(), seed, progress, allow_code=allow_code
            )
            from onnxadmm.report.benchmark_files import render_benchmark

            write_all(output, render_benchmark(found))
            return found
    return _measured(
        paths, spec, overrides, wishes or Wishes(), seed, progress, allow_code=allow_code
    )


def _measured(  # noqa: PLR0917  (all of `benchmark`'s but the output)
    paths: Sequence[Path],
    spec: Path | None,
    overrides: Iterable[str],
    wishes: Wishes,
    seed: int,
    progress: Progress | None,
    *,
    allow_code: bool,
) -> BenchmarkReport:
    journal = Journal(progress or Silent())
    with journal.stage("count"):
        request = (
            None if spec is None else resolve(paths[0], spec, overrides, allow_code=allow_code)
        )
        announce({} if request is None else request.functions, journal.progress)
        asked = wishes.over(Benchmark() if request is None else request.spec.benchmark)
        models = _opened(paths)
        accounts = {name: _account(path, journal) for name, path in _named(paths).items()}
        samples, inputs = _data(request)
    with journal.stage("evaluate"):
        scored = Evaluation({name: {} for name in models}, {name: {} for name in models})
        if request is not None and inputs is not None and len({*_outputs(models)}) == 1:
            scored = evaluate(models, request, samples, inputs, journal)
    kinds = {name: facts.computes_in(model) for name, model in models.items()}
    with journal.stage("benchmark"):
        journal.progress.note(
            "timing with random inputs" if inputs is None else "timing with the spec's data"
        )
        first = next(iter(models.values()))
        timings = bench.compare(
            dict(models),
            facts.settings(asked),
            (inputs or _made_up(first, seed)).batch,
            rounds=asked.rounds,
            seed=seed,
            peaks=list(dict.fromkeys(kinds.values())),
            profiles=True,
            progress=journal.count,
        )
    return _report(
        models,
        kinds,
        accounts,
        scored,
        timings,
        asked=asked,
        gates=Gates() if request is None else request.spec.gates,
        inputs="random" if inputs is None else "data",
        journal=journal,
    )


def _report(
    models: Mapping[str, ir.Model],
    kinds: Mapping[str, bench.Kind],
    accounts: Mapping[str, Account],
    scored: Evaluation,
    timings: facts.Timings,
    *,
    asked: Benchmark,
    gates: Gates,
    inputs: Literal["data", "random"],
    journal: Journal,
) -> BenchmarkReport:
    """Put together what was found, and judge the gates for each model after the first."""
    found = {
        name: facts.model_facts(name, accounts[name], scored.metrics[name], timings, kinds[name])
        for name in models
    }
    first = next(iter(found))
    plain: dict[str, Any] = {"benchmark": asked.model_dump(mode="json")}
    if gates != Gates():
        plain["gates"] = gates.model_dump(mode="json", exclude_none=True)
    report = BenchmarkReport(
        onnxadmm=__version__,
        created=datetime.now(UTC).date().isoformat(),
        inputs=inputs,
        spec=plain,
        models=tuple(
            BenchmarkedModel(
                name=name,
                facts=known,
                ratios=None
                if name == first
                else facts.ratios(name, found[first], known, timings, scored.changes[name]),
            )
            for name, known in found.items()
        ),
        warnings=tuple(journal.warnings),
        unmeasured=tuple(facts.unmeasured(timings)),
        environment=bench.environment(),
    )
    return judged(report, gates)


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Name models by their files, those that share a name by their paths, and repeated ones by number.

    A model against itself is a fair question.
    """
    files = [p.name for p in dict.fromkeys(paths)]
    names: dict[str, Path] = {}
    for path in paths:
        name = one_line(path.name if files.count(path.name) == 1 else path, 120)
        copies = sum(n == name or n.startswith(f"{name} (") for n in names)
        names[f"{name} ({copies + 1})" if copies else name] = path
    return names


def _opened(paths: Sequence[Path]) -> dict[str, ir.Model]:
    """Load the models, which must take the same inputs."""
    models = {name: load_model(path) for name, path in _named(paths).items()}
    wanted: list[str | None] | None = None
    for (name, model), path in zip(models.items(), paths, strict=True):
        inputs = [v.name for v in real_inputs(model)]
        wanted = inputs if wanted is None else wanted
        if inputs != wanted:
            raise SpecError(
                f"{one_line(name, 60)} takes {one_line(inputs, 60)} and {one_line(paths[0].name, 60)} takes "
                f"{one_line(wanted, 60)}; only models with the same inputs can be compared "
                f"({one_line(path, 80)})"
            )
    return models


def _outputs(models: Mapping[str, ir.Model]) -> list[tuple[str | None, ...]]:
    return [tuple(v.name for v in m.graph.outputs) for m in models.values()]


def _account(path: Path, journal: Journal) -> Account:
    """Count what a model weighs and costs."""
    graph, _, stored_bytes, _ = open_model(path)
    found = account(graph, probe(graph))
    if found.uncounted:
        journal.warn(f"MACs of {', '.join(found.uncounted)} in {path.name} are not counted")
    return found if stored_bytes is None else replace(found, file_bytes=stored_bytes)


def _data(request: Request | None) -> tuple[Samples | None, Inputs | None]:
    """Return the spec's samples and what feeds them; None without a spec, or where it has no data."""
    if request is None or request.spec.data is None:
        return None, None
    seen = probe(request.model)
    samples = load_samples(request, seen)
    return samples, Inputs(request.model, seen.shapes, samples, request.spec.seed, zeros=seen.zeros)


def _made_up(model: ir.Model, seed: int) -> Inputs:
    seen = probe(model)
    return Inputs(model, seen.shapes, None, seed, zeros=seen.zeros)
