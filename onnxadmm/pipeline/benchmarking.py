"""Models against the first of them, outside a compression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from onnxadmm import bench
from onnxadmm.errors import SpecError, one_line
from onnxadmm.graph import load_model, model_bytes, pin_dims, random_inputs, real_inputs
from onnxadmm.progress import Progress, Silent, Tick
from onnxadmm.spec import Provider

Array = np.ndarray[Any, Any]


def benchmark(
    paths: Sequence[Path],
    *,
    providers: Sequence[str] = ("cpu",),
    batch_sizes: Sequence[int] = (1,),
    threads: int = 1,
    rounds: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[bench.Comparison | bench.Unmeasured]:
    """Time models in pairs on random inputs; see `onnxadmm.bench.compare`.

    Raises:
        SpecError: The models don't take the same inputs, or a provider has no such name.
        InputError: A model can't be used.
    """
    for provider in providers:
        if provider not in get_args(Provider):
            known = ", ".join(get_args(Provider))
            raise SpecError(f"provider {one_line(provider, 40)!r} is unknown; known are {known}")
    listener = progress or Silent()
    listener.stage("benchmark")
    listener.note("timing with random inputs")
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
        (str(p) if n == 1 else f"{p} ({n})"): model_bytes(m)
        for p, m, n in zip(paths, models, _occurrence(paths), strict=True)
    }
    done = 0

    def tell(text: str) -> None:
        nonlocal done
        done += 1
        listener.tick(Tick(done, 0, text))

    def feeds(batch: int) -> dict[str, Array]:
        shapes = pin_dims(models[0], batch)
        return random_inputs(models[0], shapes, np.random.default_rng(seed))

    settings = [bench.Setting(p, n, threads) for p in providers for n in batch_sizes]
    return bench.compare(contents, settings, feeds, rounds=rounds, seed=seed, progress=tell)


def _occurrence(paths: Sequence[Path]) -> list[int]:
    """Number repeated paths: a model against itself is a fair question."""
    return [list(paths[: i + 1]).count(p) for i, p in enumerate(paths)]
