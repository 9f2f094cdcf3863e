"""The stage that makes a graph int8: how signed, and which layers stay float for the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm import bench
from onnxadmm.compact import Account
from onnxadmm.errors import one_line
from onnxadmm.pipeline import facts
from onnxadmm.pipeline.inputs import Inputs
from onnxadmm.pipeline.journal import Journal
from onnxadmm.pipeline.measuring import evaluate, infer
from onnxadmm.pipeline.request import Request, Samples
from onnxadmm.quantize import OnLevels, Quantized, quantize, signed_is_faster, store_levels
from onnxadmm.report import judge
from onnxadmm.report.gates import Candidate
from onnxadmm.spec import Gates, Quantize

Array = np.ndarray[Any, Any]
Rules = Sequence[tuple[Quantize, set[str]]]


def make_int8(
    pruned: ir.Model,
    rules: Rules,
    request: Request,
    samples: Samples | None,
    inputs: Inputs,
    *,
    trained: Mapping[str, OnLevels],
    journal: Journal,
) -> ir.Model:
    """Make int8 what the rules name; where none asks for it the graph itself comes back.

    Where the spec limits the drop of a metric and int8 breaks it, the layers that int8 harms most stay float:
    as few as meet the limit, the most harmed first.

    Args:
        pruned: The float graph.
        rules: From `quantize_rules`.
        request: The original, and the spec with its gates.
        samples: The spec's data; calibration is on training samples, the limit on held-out ones.
        inputs: Feeds.
        trained: Weights that lie on levels.
        journal: Told what was chosen.
    """
    wanted = max((r.int8.samples for r, _ in rules if r.int8 is not None), default=0)
    if samples is None or not wanted:
        return pruned
    rules = with_signedness(rules, request, journal)
    whole = quantize(pruned, rules, inputs.calibration(wanted), trained)
    for text in whole.notes:
        journal.warn(text)
    if not request.spec.gates.max_drop or samples.evaluate is None:
        return whole.model
    limit = _Limit(request, samples, inputs, journal)
    if limit.holds(whole.model) or not limit.holds(pruned):
        return whole.model
    harmed = _by_harm(pruned, rules, whole, inputs, trained=trained, journal=journal)

    def sparing(count: int) -> ir.Model:
        left = [(rule, names - set(harmed[:count])) for rule, names in rules]
        return quantize(pruned, left, (), trained, ranges=whole.ranges).model

    kept = fewest(lambda count: limit.holds(sparing(count)), len(harmed))
    if kept == len(harmed):
        journal.warn(
            "int8 breaks the limit of gates.max_drop in any of its layers: the result stays float; calibrate "
            "otherwise, or train towards the levels (schedule.quantize)"
        )
        return pruned
    journal.warn(
        f"int8 would break the limit of gates.max_drop: {kept} of {len(harmed)} layers stay float "
        f"({one_line(', '.join(harmed[:kept]), 120)})"
    )
    return sparing(kept)


def store_small(
    model: ir.Model, trained: Mapping[str, OnLevels], request: Request, journal: Journal
) -> ir.Model:
    """Store the weights that lie on levels and stay float for ONNX Runtime as integers, where nothing packs them."""
    if request.spec.pack != "none" or not trained:
        return model
    stored, names = store_levels(model, trained)
    if names:
        journal.warn(
            f"quantize: {len(names)} weights are integers behind a DequantizeLinear, since their activations stay float; "
            "ONNX Runtime computes it at each inference: with pack: auto the file is smaller, and it costs no time"
        )
    elif any(r.int8 is None for r in request.spec.quantize):
        journal.warn(
            "quantize: weights lie on levels and are stored as float32, which DequantizeLinear of this opset, or these "
            "levels, has no integers for; the file shrinks with pack: auto"
        )
    return stored


def fewest(holds: Callable[[int], bool], count: int) -> int:
    """Return the least number from 1 to count - 1 that holds, where larger ones do as well; else `count`.

    It is looked for by doubling, then by halving: far fewer questions than numbers.
    """
    failed, tried = 0, 1
    while tried < count and not holds(tried):
        failed, tried = tried, max(min(2 * tried, count - 1), tried + 1)
    while tried - failed > 1 and tried < count:
        middle = (failed + tried) // 2
        failed, tried = (failed, middle) if holds(middle) else (middle, tried)
    return tried


def with_signedness(rules: Rules, request: Request, journal: Journal) -> Rules:
    """Return the rules with the activations' sign chosen where the spec leaves it open: what runs faster here."""
    if all(r.int8 is None or r.int8.signed is not None for r, _ in rules):
        return rules
    benchmark = request.spec.benchmark
    provider = benchmark.providers[0] if benchmark.providers else "cpu"
    signed = bool(signed_is_faster(provider, benchmark.thread_counts[0]))
    journal.progress.note(
        f"activations become {'int8' if signed else 'uint8'}: the faster form here"
    )
    return [
        (
            rule
            if rule.int8 is None or rule.int8.signed is not None
            else rule.model_copy(
                update={"activations": rule.int8.model_copy(update={"signed": signed})}
            ),
            names,
        )
        for rule, names in rules
    ]


class _Limit:
    """The spec's limits on metrics, judged on held-out samples as the final gates are."""

    def __init__(
        self, request: Request, samples: Samples, inputs: Inputs, journal: Journal
    ) -> None:
        self._request, self._samples = request, samples
        self._inputs, self._journal = inputs, journal
        self._spec = request.spec.model_dump(mode="json", exclude_none=True)
        assert samples.evaluate is not None
        # Many models are compared with the original, which answers the same each time.
        self._original = infer("original", request.model, request, samples.evaluate, inputs)

    def holds(self, model: ir.Model) -> bool:
        """Whether a model keeps all of them."""
        models = {"original": self._request.model, "compressed": model}
        found = evaluate(
            models,
            self._request,
            self._samples,
            self._inputs,
            self._journal,
            inferred={"original": self._original},
        )
        nothing = Account(0, 0, 0, 0, ())
        before, after = (
            facts.model_facts(name, nothing, found.metrics[name], ()) for name in models
        )
        ratios = facts.ratios("compressed", before, after, (), found.changes["compressed"])
        gates = Gates(max_drop=self._request.spec.gates.max_drop)
        return all(g.passed for g in judge(gates, Candidate(before, after, ratios, (), self._spec)))


def _by_harm(
    pruned: ir.Model,
    rules: Rules,
    whole: Quantized,
    inputs: Inputs,
    *,
    trained: Mapping[str, OnLevels],
    journal: Journal,
) -> list[str]:
    """Return the int8 layers, first those that alone move the outputs most on training samples."""
    feed = inputs.first()
    names = [v.name or "" for v in pruned.graph.outputs]
    expected = bench.run(bench.open_isolated(pruned, name="the float model"), names, feed)
    moved: dict[str, float] = {}
    for done, layer in enumerate(whole.layers, start=1):
        alone = [(rule, nodes & {layer}) for rule, nodes in rules]
        tried = quantize(pruned, alone, (), trained, ranges=whole.ranges).model
        got = bench.run(bench.open_isolated(tried, name="a layer in int8"), names, feed)
        moved[layer] = sum(_distance(a, b) for a, b in zip(expected, got, strict=True))
        journal.tick(done, len(whole.layers), f"{one_line(layer, 40)} in int8: {moved[layer]:.2g}")
    return sorted(moved, key=lambda n: -moved[n])


def _distance(expected: Array, got: Array) -> float:
    """Return how far an output is off, relative to its norm."""
    if expected.dtype.kind != "f":
        return float(np.mean(expected != got))
    off = np.linalg.norm(got.astype(np.float64) - expected)
    return float(off / max(float(np.linalg.norm(expected)), 1e-30))
