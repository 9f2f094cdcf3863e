"""The stages that measure: the metric, the time, the size and cost of every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxadmm import bench
from onnxadmm.compact import Account, account
from onnxadmm.data import Dataset
from onnxadmm.graph import Calls, Probe, model_size, output_layout, restore_calls
from onnxadmm.pipeline import facts
from onnxadmm.pipeline.inputs import Inputs
from onnxadmm.pipeline.journal import Journal
from onnxadmm.pipeline.request import Request, Samples, output_index

if TYPE_CHECKING:
    from onnxadmm.training import Change

Array = np.ndarray[Any, Any]
Models = Mapping[str, ir.Model]
"""Name (original, pruned, compressed) -> graph; the original comes first."""

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Evaluation:
    """What the models score on the held-out samples.

    Attributes:
        metrics: Model -> metric -> value; a model without a value has an empty mapping.
        changes: Model -> metric -> interval of the change from the first model.
    """

    metrics: dict[str, dict[str, float]]
    changes: dict[str, dict[str, Change]]


def infer(name: str, model: ir.Model, request: Request, data: Dataset, inputs: Inputs) -> Array:
    """Return the output that the spec looks at for every sample, from ONNX Runtime."""
    index = output_index(request.spec, request.model)
    output = request.model.graph.outputs[index].name or ""
    axes = {output: output_layout(request.model, index).samples}
    session = bench.open_isolated(model, name=f"the {name} model")
    pieces = (
        bench.run_batched(session, f, EVALUATION_BATCH, axes) for f in inputs.evaluation(data)
    )
    return np.concatenate([piece[output] for piece in pieces])


def evaluate(
    models: Models,
    request: Request,
    samples: Samples | None,
    inputs: Inputs,
    journal: Journal,
    *,
    inferred: Mapping[str, Array] | None = None,
) -> Evaluation:
    """Measure the spec's metric on the held-out samples, in ONNX Runtime; nothing without them.

    Args:
        models: The first is what the others are compared with.
        request: Tells the metric.
        samples: The spec's data.
        inputs: Feeds.
        journal: Told of each model.
        inferred: What `infer` returned for some of the models; they aren't run again.
    """
    from onnxadmm.pipeline.goals import goal_of
    from onnxadmm.training import paired_change

    found = Evaluation({name: {} for name in models}, {name: {} for name in models})
    if samples is None or samples.evaluate is None:
        return found
    data, metric = samples.evaluate, request.spec.objective.resolved_metric
    goal = goal_of(request)
    known = inferred or {}
    first: tuple[Array, Array] | None = None
    for done, (name, model) in enumerate(models.items(), start=1):
        got = known[name] if name in known else infer(name, model, request, data, inputs)
        scored = goal.scores(got, data.labels, first[0] if first else got)
        if scored is None:
            journal.tick(done, len(models), name)
            continue
        found.metrics[name][metric] = float(scored.mean())
        if first is None:
            first = got, scored
        elif scored.ndim:
            same = bool(np.array_equal(first[0], got))
            change = paired_change(first[1], scored, same=same, bounded=goal.bounded)
            if change is not None:
                found.changes[name][metric] = change
        journal.tick(done, len(models), f"{name}: {metric} {found.metrics[name][metric]:.4f}")
    return found


def time_models(
    models: Models, request: Request, samples: Samples | None, inputs: Inputs, journal: Journal
) -> Sequence[bench.Comparison | bench.Unmeasured]:
    """Time the models in pairs, interleaved, each in a process of its own."""
    settings = facts.settings(request.spec.benchmark)
    if samples is None and settings:
        journal.progress.note("no data: timing with random inputs")
    return bench.compare(
        dict(models),
        settings,
        inputs.batch,
        rounds=request.spec.benchmark.rounds,
        seed=request.spec.seed,
        peaks=list(dict.fromkeys(map(facts.computes_in, models.values()))),
        profiles=True,
        progress=journal.count,
    )


def accounts(
    models: Models, request: Request, before: Probe, after: Probe, journal: Journal
) -> dict[str, Account]:
    """Count parameters and MACs; an int8 graph has those of its float one, and its own file.

    Args:
        models: The models.
        request: Tells what the original took, where it came packed.
        before: Shapes of the original.
        after: Shapes of the cut graph.
        journal: Told what isn't counted.
    """
    original = account(models["original"], before)
    if request.stored_bytes is not None:
        original = replace(original, file_bytes=request.stored_bytes)
    cut = account(models.get("pruned", models["compressed"]), after)
    compressed = Account(
        model_size(models["compressed"]),
        cut.parameters,
        cut.nonzero_parameters,
        cut.macs,
        cut.uncounted,
    )
    if original.uncounted:
        journal.warn(f"MACs of {', '.join(original.uncounted)} are not counted")
    return {"original": original, "pruned": cut, "compressed": compressed}


def with_calls(models: Models, calls: Calls, counted: dict[str, Account]) -> None:
    """Turn functions that nothing changed into calls again, in place; a function's nodes count, and its file's bytes.

    Args:
        models: The models; the original stays as it is.
        calls: The original's functions.
        counted: From `accounts`; file sizes follow.
    """
    if not calls.calls:
        return
    for name, graph in models.items():
        if name != "original":
            restore_calls(graph, calls)
            counted[name] = replace(counted[name], file_bytes=model_size(graph))
