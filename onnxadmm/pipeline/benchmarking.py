"""Models against the first of them, outside a compression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx_ir as ir

from onnxadmm import bench
from onnxadmm.errors import SpecError, one_line
from onnxadmm.graph import load_model, pin_dims, probe, random_inputs, real_inputs
from onnxadmm.pipeline.inputs import Inputs
from onnxadmm.pipeline.request import load_samples, resolve
from onnxadmm.progress import Progress, Silent, Tick
from onnxadmm.spec import Provider

Array = np.ndarray[Any, Any]
Feeds = Callable[[int], dict[str, Array]]


@dataclass(frozen=True)
class Benchmark:
    """What was measured, and on what.

    Attributes:
        inputs: data: samples of the spec's; random: made up, which fit types and shapes.
        results: One a setting.
    """

    inputs: Literal["data", "random"]
    results: list[bench.Comparison | bench.Unmeasured]


def benchmark(
    paths: Sequence[Path],
    *,
    spec: Path | None = None,
    providers: Sequence[str] = ("cpu",),
    batch_sizes: Sequence[int] = (1,),
    threads: int = 1,
    rounds: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> Benchmark:
    """Time models in pairs, on the data of a spec or on random inputs; see `onnxadmm.bench.compare`.

    Args:
        paths: The models; the first is the baseline, and decides what the data must fit.
        spec: Whose `data` to feed: held-out samples where there are some, repeated up to the batch size.
        providers: Where to run.
        batch_sizes: How many samples at once.
        threads: Inside an operator.
        rounds: Paired runs a setting.
        seed: Of the order of runs and of the random inputs.
        progress: Listens to what happens.

    Raises:
        SpecError: The spec is wrong, the models don't take the same inputs, or a provider has no such name.
        InputError: A model or the data can't be used.
    """
    for provider in providers:
        if provider not in get_args(Provider):
            known = ", ".join(get_args(Provider))
            raise SpecError(f"provider {one_line(provider, 40)!r} is unknown; known are {known}")
    listener = progress or Silent()
    listener.stage("benchmark")
    models = [load_model(p) for p in paths]
    first = [v.name for v in real_inputs(models[0])]
    for path, model in zip(paths[1:], models[1:], strict=True):
        names = [v.name for v in real_inputs(model)]
        if names != first:
            raise SpecError(
                f"{one_line(path.name, 60)} takes {one_line(names, 60)} and {one_line(paths[0].name, 60)} takes "
                f"{one_line(first, 60)}; only models with the same inputs can be compared"
            )
    contents = {
        (str(p) if n == 1 else f"{p} ({n})"): m
        for p, m, n in zip(paths, models, _occurrence(paths), strict=True)
    }
    data = _samples(paths[0], spec)
    listener.note("timing with the spec's data" if data else "timing with random inputs")
    done = 0

    def tell(text: str) -> None:
        nonlocal done
        done += 1
        listener.tick(Tick(done, 0, text))

    settings = [bench.Setting(p, n, threads) for p in providers for n in batch_sizes]
    feeds = data or _made_up(models[0], seed)
    results = bench.compare(contents, settings, feeds, rounds=rounds, seed=seed, progress=tell)
    return Benchmark("data" if data else "random", results)


def _samples(path: Path, spec: Path | None) -> Feeds | None:
    """Return batches of the spec's samples; None without a spec, or where it has no data."""
    if spec is None:
        return None
    request = resolve(path, spec)
    if request.spec.data is None:
        return None
    seen = probe(request.model)
    samples = load_samples(request, seen)
    return Inputs(request.model, seen.shapes, samples, request.spec.seed).batch


def _made_up(model: ir.Model, seed: int) -> Feeds:
    def feeds(batch: int) -> dict[str, Array]:
        return random_inputs(model, pin_dims(model, batch), np.random.default_rng(seed))

    return feeds


def _occurrence(paths: Sequence[Path]) -> list[int]:
    """Number repeated paths: a model against itself is a fair question."""
    return [list(paths[: i + 1]).count(p) for i, p in enumerate(paths)]
