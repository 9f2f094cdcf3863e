"""The proof: the cut graph computes what the masked one computes, in ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.bench import IsolatedSession, open_isolated, run
from onnxadmm.bench.sessions import explain
from onnxadmm.compact.deciding import SMOOTH, decisions, with_decisions
from onnxadmm.compact.rounding import only_rounding, within_rounding
from onnxadmm.errors import ModelError, OnnxadmmError, UnsupportedError, VerificationError, one_line
from onnxadmm.graph import compare_outputs, showing

Array = np.ndarray[Any, Any]

TOLERANCE = 1e-5
"""Largest error of an output, relative to that output's largest value."""
AMPLIFIED = 1e-4
"""The same where rounding explains it element by element: as much as an import may differ from ONNX Runtime."""


@dataclass(frozen=True, slots=True)
class Proof:
    """How far two models are apart.

    Attributes:
        max_error: Largest absolute difference of any output over that output's largest absolute value.
        samples: Rows that were compared.
        untested: Outputs that were the same whatever the inputs: their being equal shows nothing.
        rounding: Outputs that are nothing but rounding, in both models: there is nothing to compare.
        amplified: Outputs that differ by more than the tolerance, and no element of them by more than rounding moves
            it; by `AMPLIFIED` at most.
    """

    max_error: float
    samples: int
    untested: tuple[str, ...] = ()
    rounding: tuple[str, ...] = ()
    amplified: tuple[str, ...] = ()


def prove(
    masked: ir.Model,
    cut: ir.Model,
    feeds: Sequence[Mapping[str, Array]],
    *,
    further: Sequence[Mapping[str, Array]] = (),
) -> Proof:
    """Run both models on the same inputs and measure how far they are apart.

    Where outputs differ and the graph takes decisions that jump (which boxes to keep, in which order), rounding
    may be all that differs. Both are then run with the decisions that the masked model took, and every output must
    agree, and all that decisions are taken from, to what rounding does to each element. So they are where an
    output is the same on all inputs (a detector that finds nothing): what its decisions are taken from tells more.
    A model that ignores its inputs (all weights zero) is no error; its outputs are told as untested. So is an output
    that is nothing but rounding, or that differs by no more than rounding moves it in a model that amplifies that.

    Args:
        masked: The original graph with the dead channels set to zero.
        cut: The graph without them.
        feeds: Inputs, real and random ones.
        further: More inputs, which are left out where the masked model can't run them: exporters say of many a
            batch that it is open and write it down all the same.

    Raises:
        VerificationError: They differ by more than `TOLERANCE`. Nothing may be written then.
        UnsupportedError: No input makes every output finite: nothing is proven.
    """
    reference = open_isolated(masked, name="the masked model")
    candidate = open_isolated(cut, name="the cut model")
    names = [o.name for o in reference.get_outputs()]
    samples, told, odd = 0, False, False
    still = _Still()
    expected: list[dict[str, Array]] = []
    got: list[dict[str, Array]] = []
    runs = [(dict(f), _run(reference, names, dict(f))) for f in feeds]
    runs += [(dict(f), a) for f in further if (a := _try(reference, names, f)) is not None]
    feeds = [inputs for inputs, _ in runs]
    for inputs, arrays in runs:
        expected.append(dict(zip(names, arrays, strict=True)))
        got.append(dict(zip(names, _run(candidate, names, inputs), strict=True)))
        odd = odd or any(_has_nan(a) for a in arrays)
        told = told or all(_has_finite(a) for a in arrays)
        still.see(inputs, expected[-1])
        samples += len(next((a for a in inputs.values() if a.ndim), np.zeros(1)))
    errors = _errors(names, expected, got)
    worst = max(errors.values())
    if not worst <= TOLERANCE and odd and masked.opset_imports.get("", 1) < ops.WHERE_SINCE:
        raise UnsupportedError(
            "the cut model can't be proven equal to the masked one: a removed channel is not finite where it is "
            f"zero, and opset {masked.opset_imports.get('', 1)} has no Where to leave it out; export with opset "
            f"{ops.WHERE_SINCE} or newer"
        )
    if not told:
        raise UnsupportedError(
            "the cut model can't be proven equal to the masked one: an output is not finite on every random "
            "input; give real samples in the spec's data"
        )
    untested: Sequence[str] = still.names
    also = ""
    if untested or not worst <= TOLERANCE:
        errors, untested, also = _looked_into(masked, cut, feeds, errors, untested)
    # What a decision is taken from has no such excuse: a sigmoid far out is noise, and what it is taken of isn't.
    wrong = [n for n in names if not errors.get(n, 0.0) <= TOLERANCE]
    noise = only_rounding(masked, feeds, expected, got, wrong)
    near = [n for n in wrong if n not in noise and errors[n] <= AMPLIFIED]
    amplified = within_rounding(masked, feeds, expected, got, near, least=TOLERANCE)
    worst = max((e for n, e in errors.items() if n not in (*noise, *amplified)), default=0.0)
    if not worst <= TOLERANCE:
        raise VerificationError(
            f"the cut model differs from the masked one by {worst:.2g} of the largest output "
            f"{one_line(names[0], 40)!r} (allowed {TOLERANCE:g}){also}; this is a bug in onnxadmm, please report "
            "the model"
        )
    return Proof(worst, samples, tuple(untested), tuple(noise), tuple(amplified))


class _Still:
    """Which values stay the same from one run to the next, whatever goes in.

    Attributes:
        names: Those of them; none before two runs had different inputs.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._first: tuple[Mapping[str, Array], Mapping[str, Array]] | None = None
        self._moved: set[str] = set()

    def see(self, inputs: Mapping[str, Array], values: Mapping[str, Array]) -> None:
        """Take in a run."""
        if self._first is None:
            self._first = dict(inputs), dict(values)
            return
        fed, first = self._first
        if all(_same(fed[n], inputs[n]) for n in fed):
            return
        self._moved |= {n for n in first if not _same(first[n], values[n])}
        self.names = [n for n in first if n not in self._moved]


def _same(first: Array, other: Array) -> bool:
    """Whether two values are equal; those of another batch, if each of its rows is the first one's first."""
    batches = first.ndim and first.size and first.shape != other.shape
    if batches and first.shape[1:] == other.shape[1:]:
        first = np.broadcast_to(first[:1].reshape(first.shape[1:]), other.shape)
    return compare_outputs([first], [other]) == 0


@dataclass(frozen=True, slots=True)
class _Inner:
    """How two graphs compare that are given the same decisions.

    Attributes:
        errors: How far apart is what was compared, as in `Proof`, by name.
        telling: Whether something that was compared depends on the inputs.
    """

    errors: dict[str, float]
    telling: bool


def unproven(proof: Proof) -> list[str]:
    """Say which outputs a proof tells nothing of, and why."""
    amplifies = (
        "the model amplifies rounding: one of its weights and inputs moves each element by as much as the cut did, more "
        f"than {TOLERANCE:g} of the largest and at most {AMPLIFIED:g}"
    )
    reasons = (
        (
            proof.untested,
            "the same on all inputs that were tried; give real samples in the spec's data",
        ),
        (proof.rounding, "zero but for rounding, which is all that a run shows of it"),
        (proof.amplified, amplifies),
    )
    texts = []
    for names, why in reasons:
        shown = ", ".join(one_line(n, 40) for n in names[:4])
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""  # noqa: PLR2004
        texts += [f"not proven for {shown}{more}: {why}"] if names else []
    return texts


def _looked_into(
    masked: ir.Model,
    cut: ir.Model,
    feeds: Sequence[Mapping[str, Array]],
    errors: dict[str, float],
    untested: Sequence[str],
) -> tuple[dict[str, float], Sequence[str], str]:
    """Compare once more with the decisions given, where outputs differ or never moved.

    Returns:
        How far apart outputs are and what decisions are taken from, by name; the outputs that nothing was shown of;
        and why they couldn't be compared so.
    """
    try:
        inner = _with_the_same_decisions(masked, cut, feeds)
    except OnnxadmmError as e:
        # Decisions over channels that went have another shape: then nothing is explained.
        return (
            errors,
            untested,
            f"; with the same decisions they can't be compared: {one_line(str(e), 120)}",
        )
    if inner is None:
        return errors, untested, ""
    if not max(errors.values()) <= TOLERANCE:
        errors = inner.errors
    elif math.isfinite(max(inner.errors.values(), default=0.0)):
        errors |= {n: max(e, errors.get(n, 0.0)) for n, e in inner.errors.items()}
    return errors, () if inner.telling else untested, ""


def _with_the_same_decisions(
    masked: ir.Model, cut: ir.Model, feeds: Sequence[Mapping[str, Array]]
) -> _Inner | None:
    """Return how far the models are apart when both take the masked one's decisions; None where none decides.

    Args:
        masked: The original graph with the dead channels set to zero.
        cut: The graph without them.
        feeds: Inputs.
    """
    found = decisions(masked)
    if not found or found != decisions(cut):
        return None
    names = list(found)
    seeing = open_isolated(showing(masked, names), name="the masked model")
    taken = [dict(zip(names, _run(seeing, names, dict(f)), strict=True)) for f in feeds]
    seeing = open_isolated(showing(cut, names), name="the cut model")
    there = dict(zip(names, _run(seeing, names, dict(feeds[0])), strict=True))
    dtypes = {
        n: ir.DataType.from_numpy(np.asarray(a).dtype)
        for n, a in taken[0].items()
        if found[n] not in SMOOTH or there[n].shape == a.shape
    }
    first, second = with_decisions(masked, dtypes), with_decisions(cut, dtypes)
    if (first.compared, first.saturating) != (second.compared, second.saturating):
        return None
    reference = open_isolated(first.model, name="the masked model")
    candidate = open_isolated(second.model, name="the cut model")
    wanted = {i.name for i in reference.get_inputs()}
    still = _Still()
    fed: list[dict[str, Array]] = []
    expected: list[dict[str, Array]] = []
    got: list[dict[str, Array]] = []
    for feed, decided in zip(feeds, taken, strict=True):
        inputs = {**feed, **{first.decisions[n]: decided[n] for n in dtypes}}
        fed.append({n: a for n, a in inputs.items() if n in wanted})
        for session, runs in ((reference, expected), (candidate, got)):
            runs.append(dict(zip(first.shown, _run(session, first.shown, fed[-1]), strict=True)))
        still.see(feed, expected[-1])
    errors = _errors(first.compared, expected, got)
    outputs = {o.name for o in masked.graph.outputs}
    sources = [n for n, e in errors.items() if TOLERANCE < e < math.inf and n not in outputs]
    for name in within_rounding(first.model, fed, expected, got, sources, least=TOLERANCE):
        del errors[name]
    for s in first.saturating:
        # No name of a value: what it is taken of may be an output that is compared as well.
        errors[f"{s.source} -> {s.name}"] = max(
            s.apart(e, g) for e, g in zip(expected, got, strict=True)
        )
    return _Inner(errors, len(still.names) < len(first.shown))


def _errors(
    names: Sequence[str],
    expected: Sequence[Mapping[str, Array]],
    got: Sequence[Mapping[str, Array]],
) -> dict[str, float]:
    """Return how far two models' values are apart at most, by name."""
    return {
        n: max(compare_outputs([e[n]], [g[n]]) for e, g in zip(expected, got, strict=True))
        for n in names
    }


def _run(session: IsolatedSession, names: list[str], inputs: dict[str, Array]) -> list[Array]:
    try:
        return run(session, names, inputs)
    except ModelError:
        raise
    except Exception as e:  # noqa: BLE001  (ONNX Runtime raises what it likes)
        raise explain(e, "the proof") from None


def _try(
    session: IsolatedSession, names: list[str], feed: Mapping[str, Array]
) -> list[Array] | None:
    """Return what a model makes of inputs that it may refuse, or None."""
    try:
        return run(session, names, dict(feed))
    except Exception:  # noqa: BLE001  (ONNX Runtime raises what it likes)
        return None


def _has_nan(array: Array) -> bool:
    return np.asarray(array).dtype.kind == "f" and bool(np.isnan(array).any())


def _has_finite(array: Array) -> bool:
    kind = np.asarray(array).dtype.kind
    return kind not in "fc" or not np.size(array) or bool(np.isfinite(array).any())
