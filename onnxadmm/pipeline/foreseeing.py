"""What a model or a spec won't gain, said before the work, and what was measured in the end.

A warning is known from the model and the spec alone. Once a run has timed its models, the same warning
comes back with the numbers that bear on it, whether they confirm it or not.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxadmm import bench, ops
from onnxadmm.channels import ChannelClass, is_bounded, matches, patterns
from onnxadmm.channels.selection import ALIGNED_FROM, ALIGNMENT, names_of
from onnxadmm.compact import Account
from onnxadmm.errors import one_line
from onnxadmm.graph import real_inputs, wrapping_of
from onnxadmm.report import formatting as fmt
from onnxadmm.spec import Prune, Spec

Timings = Sequence[bench.Comparison | bench.Unmeasured]
Bears = Literal["pruned", "int8"]

MANY_ZEROS = 0.2
"""A smaller share of zeros is what trained models have anyway."""
SHOWN = 3
_OVERRIDABLE = 4
"""The IR version from which on an initializer that is also an input is a default."""
_LEVELS = {
    *(ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4),
    *(ir.DataType.INT2, ir.DataType.UINT2),
}


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A warning before the run.

    Attributes:
        text: The warning, without a full stop.
        bears: Which measurement speaks to it: the pruned float model against the original, or int8
            against the pruned float model.
        provider: The provider that it is about; None for all.
    """

    text: str
    bears: Bears
    provider: str | None = None


def foresee(
    spec: Spec,
    classes: Sequence[ChannelClass],
    targets: Mapping[str, int],
    weights: Mapping[str, Sequence[str]],
) -> list[Foreseen]:
    """Return what the spec asks for and won't get.

    Args:
        spec: The spec.
        classes: All classes of channels.
        targets: Class name -> channels kept, of classes that lose some.
        weights: Layer name -> names of its weights.
    """
    found = list(_fruitless(spec, classes, weights))
    sparse = dict.fromkeys(p.structure for p in spec.prune if p.structure != "channel")
    if sparse:
        found.append(
            Foreseen(
                f"{', '.join(sparse)} zeros bring no speed: ONNX Runtime has no sparse kernels; "
                "structure: channel does",
                "pruned",
            )
        )
    if spec.int8:
        found += [
            Foreseen(
                f"int8 on {fmt.provider(p)} is often slower than float: its provider has few integer "
                "kernels, and copies or converts around them",
                "int8",
                p,
            )
            for p in spec.benchmark.providers
            if p == "cuda"
        ]
    odd = [
        f"{one_line(c.name, 40)} keeps {targets[c.name]} of {c.size}"
        for c in classes
        if c.name in targets and c.size >= ALIGNED_FROM and targets[c.name] % ALIGNMENT
    ]
    if odd:
        found.append(
            Foreseen(
                f"widths that are no multiple of {ALIGNMENT} can cost the speed that the cut gains: "
                f"{_some(odd)}; leave round_to out, or make it a multiple of {ALIGNMENT}",
                "pruned",
            )
        )
    bounded = [
        f"{one_line(c.name, 40)} keeps {targets[c.name]} of {c.size} at amount {rule.amount:g}"
        for c, rule in _ruled(spec, classes, weights)
        if c.name in targets and is_bounded(c.size, rule)
    ]
    if bounded:
        found.append(
            Foreseen(
                f"round_to and min_channels keep more than the amount leaves: {_some(bounded)}",
                "pruned",
            )
        )
    kept = [
        f"{one_line(c.name, 40)} of {c.size} at amount {rule.amount:g}"
        for c, rule in _ruled(spec, classes, weights)
        if c.name not in targets and rule.amount > 0
    ]
    if kept:
        found.append(
            Foreseen(
                f"rates below the alignment take nothing away: {_some(kept)}; raise the amount, or lower "
                "round_to or min_channels",
                "pruned",
            )
        )
    return found


def _fruitless(
    spec: Spec, classes: Sequence[ChannelClass], weights: Mapping[str, Sequence[str]]
) -> Iterator[Foreseen]:
    """Yield the entries of structure channel none of whose channels can go; one that names them is refused."""
    for number, rule in enumerate(spec.prune, 1):
        if rule.structure != "channel":
            continue
        hit = [c for c in classes if matches(names_of(c, weights), patterns(rule.layers))]
        if hit and all(c.fixed for c in hit):
            largest = sorted(hit, key=lambda c: -c.size * c.parameters)
            why = [f"{one_line(c.name, 40)} ({one_line(c.reason or '', 120)})" for c in largest]
            yield Foreseen(
                f"prune entry {number} takes nothing away: no channel can go of {_some(why)}",
                "pruned",
            )


def inherent(model: ir.Model, account: Account) -> list[Foreseen]:
    """Return what no spec will gain on this model."""
    found: list[Foreseen] = []
    zeros = account.parameters - account.nonzero_parameters
    if zeros > MANY_ZEROS * account.parameters:
        found.append(
            Foreseen(
                f"{fmt.share(zeros, account.parameters)} of the model's parameters are zero: ONNX Runtime has "
                "no sparse kernels, so single, blockwise or N:M zeros bring no speed; cutting channels does",
                "pruned",
            )
        )
    if any(n.op_type == "DequantizeLinear" for n in model.graph):
        found.append(
            Foreseen(
                "the model is quantized: int8 on CUDA is often slower than float; time it with "
                "`onnxadmm benchmark --provider cuda`",
                "pruned",
                "cuda",
            )
        )
    return found


def peculiarities(model: ir.Model, weights: Collection[str]) -> list[str]:
    """Return what is odd about the model.

    Inputs that are weights, weights that are integers, samples that depend on their batch, outputs that others stand for.

    Args:
        model: The graph.
        weights: Names of its weights.
    """
    found = []
    listed = [v.name for v in model.graph.inputs if v.name in weights]
    # Before IR 4 every initializer was listed so, and none could be overridden.
    if listed and model.ir_version >= _OVERRIDABLE:
        found.append(
            f"{len(listed)} weights are inputs of the graph too (as torch exported them in 2019), which a caller may "
            "override: they are cut and trained like others, and their declared shapes follow"
        )
    integers, floats = _numbers(model)
    if integers > floats:
        found.append(
            f"{fmt.share(integers, integers + floats)} of the numbers in the model's matrices are integers already: "
            "channels of those can't be cut yet; start from the float model"
        )
    if batches := _by_the_batch(model):
        found.append(
            f"{len(batches)} BatchNormalizations ({one_line(', '.join(batches[:SHOWN]), 60)}) are in their training form: "
            "what a sample's output is depends on the others of its batch; export the model in inference mode"
        )
    wrapping = wrapping_of(model)
    for name, sources in () if wrapping is None else wrapping.sources.items():
        found.append(
            f"output {one_line(name, 40)} is a sequence or map: {one_line(', '.join(sources), 80)}, of which it is made, "
            "is trained, proven and timed in its place; the file that is written has it again"
        )
    return found


def _by_the_batch(model: ir.Model) -> list[str]:
    """Return the BatchNormalizations that normalise what comes from an input by its own statistics."""
    fed = set(real_inputs(model))
    found = []
    for node in model.graph:
        if fed.isdisjoint(node.inputs):
            continue
        fed.update(node.outputs)
        trains = node.attributes.get("training_mode")
        if node.op_type == "BatchNormalization" and trains is not None and trains.as_int():
            found.append(node.name or "without a name")
    return found


def _numbers(model: ir.Model) -> tuple[int, int]:
    """Return how many numbers in matrices are integers of a quantization, and how many floats."""
    integers = floats = 0
    for value in ops.held_tensors(model):
        kind, size = ops.element_type(value), value.shape
        if size is None or len(size) < 2 or kind is None:  # noqa: PLR2004
            continue
        count = math.prod(d for d in size if isinstance(d, int))
        integers += count if kind in _LEVELS else 0
        floats += count if kind.is_floating_point() else 0
    return integers, floats


def untaught(names: Sequence[str]) -> list[str]:
    """Return what training won't change, since no gradient gets to it."""
    if not names:
        return []
    listed = _some([one_line(n, 40) for n in names])
    text = (
        f"training leaves {len(names)} weights as they are but for what is pruned, since no gradient gets to them "
        f"through nodes that ONNX Runtime executes as they are: {listed}"
    )
    return [text]


def alignment(classes: Sequence[ChannelClass]) -> list[str]:
    """Return which amounts gain nothing on this model."""
    stepped = [c.size for c in classes if not c.fixed and c.size >= ALIGNED_FROM]
    if not stepped:
        return []
    least = ALIGNMENT / 2 / min(stepped)
    return [
        (
            f"classes of {ALIGNED_FROM} channels and more keep multiples of {ALIGNMENT}: an amount below "
            f"{least:.2g} takes nothing from one of {min(stepped)}, and other widths (round_to) can cost the "
            "speed that they gain"
        )
    ]


def with_measured(warning: Foreseen, timings: Timings, macs_ratio: float | None) -> str:
    """Return a warning with what the run measured.

    Args:
        warning: The warning.
        timings: Of the models original, pruned (where there is one) and compressed.
        macs_ratio: MACs of the original over those of the result.
    """
    about = [t for t in timings if warning.provider in (None, t.setting.provider)]
    shown = [said for t in about if (said := _measured(warning, t))]
    # Why not stands in a note of its own.
    shown = list(dict.fromkeys(shown))
    if not shown:
        return f"{warning.text}. Not timed."
    fewer = ""
    if warning.bears == "pruned" and macs_ratio is not None:
        fewer = f", with {fmt.ratio(macs_ratio)} fewer MACs"
    what = "int8 against float" if warning.bears == "int8" else "speed against the original"
    return f"{warning.text}. Measured {what}: {'; '.join(shown)}{fewer}."


def _measured(warning: Foreseen, timing: bench.Comparison | bench.Unmeasured) -> str:
    """Return the numbers of one setting, or that there are none on its provider."""
    setting = timing.setting
    if isinstance(timing, bench.Unmeasured):
        return f"{fmt.provider(setting.provider)}: not measured"
    where = f"{fmt.provider(setting.provider)}, batch{fmt.SPACE}{setting.batch_size}"
    where += f", {fmt.plural(setting.threads, 'thread')}" if setting.threads > 1 else ""
    result, floating = timing.speedups.get("compressed"), timing.speedups.get("pruned")
    if warning.bears == "int8":
        if result is None or floating is None:
            return ""
        verdict = (
            "slower"
            if result.high < floating.low
            else "faster"
            if result.low > floating.high
            else "no clear difference"
        )
        return f"{where}: {fmt.ratio(result.ratio / floating.ratio)} ({verdict})"
    speed = floating or result
    if speed is None:
        return ""
    return f"{where}: {fmt.ratio(speed.ratio)} ({fmt.interval(speed.low, speed.high)})"


def _ruled(
    spec: Spec, classes: Sequence[ChannelClass], weights: Mapping[str, Sequence[str]]
) -> Iterator[tuple[ChannelClass, Prune]]:
    """Yield the classes that entries of scope `layer` prune, each with the rule that holds: the last that matches."""
    rules = [p for p in spec.prune if p.structure == "channel"]
    for c in classes:
        hit = [r for r in rules if matches(names_of(c, weights), patterns(r.layers))]
        # What an entry of scope `global` takes from one class is known after training only.
        if hit and not c.fixed and hit[-1].scope == "layer":
            yield c, hit[-1]


def _some(said: Sequence[str]) -> str:
    more = len(said) - SHOWN
    return ", ".join(said[:SHOWN]) + (f" and {more} more" if more > 0 else "")
