"""Timing several models against each other, in pairs, on a machine that does other things too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxadmm.bench.isolated import give_memory_back
from onnxadmm.bench.peak import Kind, measure_peaks
from onnxadmm.bench.placement import choose_cores
from onnxadmm.bench.process import Warmth, WorkerProcess
from onnxadmm.bench.profile import Profile
from onnxadmm.bench.providers import ProviderError, device
from onnxadmm.bench.results import Comparison, Measurement, Setting, Unmeasured
from onnxadmm.bench.statistics import Times, speedup, summarize
from onnxadmm.errors import DataError, OnnxadmmError, SpecError, one_line

if TYPE_CHECKING:
    import onnx_ir as ir

Feeds = Callable[[int], dict[str, np.ndarray[Any, Any]]]

# The fewest of which one odd launch can't sway the median of a bootstrap draw more often than the
# interval allows; a launch costs some 0.3 s a model, and its warm-up.
LAUNCHES = 5
LIMIT_S = 600.0
_REPORT_EVERY = 10
# Kernels are launched one by one then, so that each node's time is its own.
_SYNCHRONOUS = {"CUDA_LAUNCH_BLOCKING": "1"}


@dataclass(slots=True)
class _Record:
    """What one model did, launch by launch."""

    rounds: list[list[Times]] = field(default_factory=list)
    session_s: list[float] = field(default_factory=list)
    warmth: list[Warmth] = field(default_factory=list)
    memory: list[tuple[int, int | None]] = field(default_factory=list)

    def measurement(self, batch_size: int, rng: np.random.Generator) -> Measurement:
        on_device = [d for _, d in self.memory if d is not None]
        return Measurement(
            summarize(self.rounds, batch_size, rng),
            session_s=float(np.median(self.session_s)),
            first_run_ms=float(np.median([w.first_ms for w in self.warmth])),
            warm_up_runs=int(np.median([w.warm_up_runs for w in self.warmth])),
            settled=all(w.settled for w in self.warmth),
            peak_memory_bytes=int(np.median([m for m, _ in self.memory])),
            peak_device_bytes=int(np.median(on_device)) if on_device else None,
        )

    def medians_ms(self) -> list[Times]:
        return [np.array([np.median(s) for s in launch]) for launch in self.rounds]


def compare(
    models: Mapping[str, bytes | ir.Model | Path],
    settings: Sequence[Setting],
    feeds: Feeds,
    *,
    rounds: int = 100,
    seed: int = 0,
    peaks: Sequence[Kind] = (),
    profiles: bool = False,
    progress: Callable[[str], None] | None = None,
    limit_s: float = LIMIT_S,
) -> list[Comparison | Unmeasured]:
    """Time models against the first of them, under every setting.

    Each model lives in a process of its own, so that none warms or fragments another's memory. In each
    round every model is timed once, in random order, while the others wait; only times of the same
    round are compared, so that a slow spell of the machine hits both sides. All run on the same cores
    (`onnxadmm.bench.placement`). The processes are started afresh several times within the rounds, since
    where a process happens to lie in memory can make it some percent faster or slower for its whole life.

    On CUDA, inputs and outputs stay in GPU memory: what is timed is the model, not the copying.

    Args:
        models: Name -> model, serialised model or its file. The first is the baseline. What is no file yet
            is written to a temporary one, so that every model takes the same way in.
        settings: What to run under; one result each, in order.
        feeds: Batch size -> the inputs to run on, the same for every model.
        rounds: Paired samples under one setting, at least 5.
        seed: Of the order within rounds, and of the bootstrap.
        peaks: Element types for which a large matrix product is timed as well, once for each provider and
            number of threads.
        profiles: Whether to run each model under ONNX Runtime's profiler as well, in a process of its own,
            under the first setting of each provider.
        progress: Told what is happening, a short line at a time.
        limit_s: How long a worker may take over one request (opening, warming up, a sample).

    Returns:
        A `Comparison` for each setting, or `Unmeasured` when the provider can't be used here or the
        models don't take that batch size.

    Raises:
        SpecError: No models, or too few rounds.
        ModelError: ONNX Runtime refuses a model, or crashes on it.
        ResourceError: Memory, disk or time ran out.
    """
    if not models:
        raise SpecError("benchmark: no models to compare; give at least one")
    if rounds < LAUNCHES:
        raise SpecError(
            f"benchmark: rounds is {rounds}; at least {LAUNCHES} are needed for an interval"
        )
    if not settings:
        # Files of all models would be made for nothing.
        return []
    say = progress or (lambda _: None)
    results: list[Comparison | Unmeasured] = []
    known: dict[tuple[str, int], dict[str, float]] = {}
    profiled: set[str] = set()
    # The largest of what ran before has its weights packed there, and the next ones need the room.
    give_memory_back()
    with _files(models) as files:
        for index, setting in enumerate(settings):
            rng = np.random.default_rng([seed, index])
            inputs = feeds(setting.batch_size)
            try:
                found = _measure(
                    files, setting, inputs, rounds=rounds, rng=rng, say=say, limit_s=limit_s
                )
                where = (setting.provider, setting.threads)
                if where not in known:
                    known[where] = measure_peaks(peaks, setting, limit_s)
                traced: dict[str, Profile] = {}
                faults: dict[str, str] = {}
                if profiles and setting.provider not in profiled:
                    profiled.add(setting.provider)
                    say(f"{setting}: profiling")
                    traced, faults = _profile(files, setting, inputs, rng, limit_s)
                results.append(
                    replace(found, peak_gflops=known[where], profiles=traced, unprofiled=faults)
                )
            except (ProviderError, DataError) as e:
                results.append(Unmeasured(setting, str(e)))
    return results


@contextmanager
def _files(models: Mapping[str, bytes | ir.Model | Path]) -> Iterator[dict[str, Path]]:
    """Give every model a file, and take those that we wrote away again."""
    from onnxadmm.graph import stage_model, temporary_folder

    with temporary_folder() as folder:
        yield {
            name: model if isinstance(model, Path) else stage_model(model, folder, f"{index}.onnx")
            for index, (name, model) in enumerate(models.items())
        }


def _measure(
    files: Mapping[str, Path],
    setting: Setting,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    *,
    rounds: int,
    rng: np.random.Generator,
    say: Callable[[str], None],
    limit_s: float,
) -> Comparison:
    records = {name: _Record() for name in files}
    done = 0
    for share in np.diff(np.linspace(0, rounds, LAUNCHES + 1).astype(int)):
        say(f"{setting}: starting ONNX Runtime")
        # The CPU only feeds a GPU; there the driver's threads want room.
        cores = choose_cores(setting.threads, rng) if setting.provider == "cpu" else []
        with ExitStack() as stack:
            workers = {n: stack.enter_context(WorkerProcess(n, limit_s)) for n in files}
            for name, worker in workers.items():
                records[name].session_s.append(worker.open(files[name], setting, cores))
            for name, worker in workers.items():
                records[name].warmth.append(worker.warm(inputs))
                records[name].rounds.append([])
            names = list(files)
            for _ in range(share):
                for i in rng.permutation(len(names)):
                    records[names[i]].rounds[-1].append(workers[names[i]].time())
                done += 1
                if done % _REPORT_EVERY == 0:
                    say(f"{setting}: round {done} of {rounds}")
            for name, worker in workers.items():
                records[name].memory.append(worker.memory())
    first, *others = files
    base = records[first].medians_ms()
    return Comparison(
        setting,
        {name: record.measurement(setting.batch_size, rng) for name, record in records.items()},
        {
            name: speedup(list(zip(base, records[name].medians_ms(), strict=True)), rng)
            for name in others
        },
    )


def _profile(
    files: Mapping[str, Path],
    setting: Setting,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    rng: np.random.Generator,
    limit_s: float,
) -> tuple[dict[str, Profile], dict[str, str]]:
    """Run each model under the profiler; return the profiles, and why a model has none."""
    found: dict[str, Profile] = {}
    faults: dict[str, str] = {}
    from onnxadmm.graph import temporary_folder

    cores = choose_cores(setting.threads, rng) if setting.provider == "cpu" else []
    environment = _SYNCHRONOUS if device(setting.provider) == "cuda" else {}
    for name, file in files.items():
        with temporary_folder() as folder:
            try:
                with WorkerProcess(name, limit_s, environment) as worker:
                    worker.open(file, setting, cores, trace=folder)
                    found[name] = worker.trace(inputs)
            except OnnxadmmError as e:
                # ONNX Runtime writes no graph over 2 GiB; the models are measured all the same.
                faults[name] = one_line(e, 200)
    return found, faults
