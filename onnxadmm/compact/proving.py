"""The proof: the cut graph computes what the masked one computes, in ONNX Runtime."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.bench import IsolatedSession, open_isolated, run
from onnxadmm.bench.sessions import explain
from onnxadmm.compact.deciding import SMOOTH, decisions, with_decisions
from onnxadmm.compact.guarding import WHERE_SINCE
from onnxadmm.errors import ModelError, OnnxadmmError, UnsupportedError, VerificationError, one_line
from onnxadmm.graph import compare_outputs, showing

Array = np.ndarray[Any, Any]

TOLERANCE = 1e-5
"""Largest error of an output, relative to that output's largest value."""


@dataclass(frozen=True, slots=True)
class Proof:
    """How far two models are apart.

    Attributes:
        max_error: Largest absolute difference of any output over that output's largest absolute value.
        samples: Rows that were compared.
    """

    max_error: float
    samples: int


def prove(masked: ir.Model, cut: ir.Model, feeds: Sequence[Mapping[str, Array]]) -> Proof:
    """Run both models on the same inputs and measure how far they are apart.

    Where outputs differ and the graph takes decisions that jump (which boxes to keep, in which order), rounding
    may be all that differs. Both are then run with the decisions that the masked model took, and every output
    and all that decisions are taken from must agree.

    Args:
        masked: The original graph with the dead channels set to zero.
        cut: The graph without them.
        feeds: Inputs, real and random ones.

    Raises:
        VerificationError: They differ by more than `TOLERANCE`. Nothing may be written then.
        UnsupportedError: No input makes every output finite: nothing is proven.
    """
    reference = open_isolated(masked, name="the masked model")
    candidate = open_isolated(cut, name="the cut model")
    names = [o.name for o in reference.get_outputs()]
    worst, samples, told, odd = 0.0, 0, False, False
    for feed in feeds:
        inputs = dict(feed)
        expected, got = _run(reference, names, inputs), _run(candidate, names, inputs)
        worst = max(worst, compare_outputs(expected, got))
        odd = odd or any(_has_nan(a) for a in expected)
        told = told or all(_has_finite(a) for a in expected)
        samples += len(next((a for a in inputs.values() if a.ndim), np.zeros(1)))
    if not worst <= TOLERANCE and odd and masked.opset_imports.get("", 1) < WHERE_SINCE:
        raise UnsupportedError(
            "the cut model can't be proven equal to the masked one: a removed channel is not finite where it is "
            f"zero, and opset {masked.opset_imports.get('', 1)} has no Where to leave it out; export with opset "
            f"{WHERE_SINCE} or newer"
        )
    if not told:
        raise UnsupportedError(
            "the cut model can't be proven equal to the masked one: an output is not finite on every random "
            "input; give real samples in the spec's data"
        )
    if not worst <= TOLERANCE:
        # Decisions over channels that went have another shape: then nothing is explained.
        with contextlib.suppress(OnnxadmmError):
            worst = _with_the_same_decisions(masked, cut, feeds, worst)
    if not worst <= TOLERANCE:
        raise VerificationError(
            f"the cut model differs from the masked one by {worst:.2g} of the largest output "
            f"{one_line(names[0], 40)!r} (allowed {TOLERANCE:g}); this is a bug in onnxadmm, please report the model"
        )
    return Proof(worst, samples)


def _with_the_same_decisions(
    masked: ir.Model, cut: ir.Model, feeds: Sequence[Mapping[str, Array]], apart: float
) -> float:
    """Return how far the models are apart when both take the masked one's decisions.

    Args:
        masked: The original graph with the dead channels set to zero.
        cut: The graph without them.
        feeds: Inputs.
        apart: How far they are apart when each decides for itself; returned where nothing decides.
    """
    found = decisions(masked)
    if not found or found != decisions(cut):
        return apart
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
    if first.compared != second.compared:
        return apart
    reference = open_isolated(first.model, name="the masked model")
    candidate = open_isolated(second.model, name="the cut model")
    wanted = {i.name for i in reference.get_inputs()}
    worst = 0.0
    for feed, decided in zip(feeds, taken, strict=True):
        inputs = {**feed, **{first.decisions[n]: decided[n] for n in dtypes}}
        inputs = {n: a for n, a in inputs.items() if n in wanted}
        expected, got = (_run(s, list(first.compared), inputs) for s in (reference, candidate))
        worst = max(worst, compare_outputs(expected, got))
    return worst


def _run(session: IsolatedSession, names: list[str], inputs: dict[str, Array]) -> list[Array]:
    try:
        return run(session, names, inputs)
    except ModelError:
        raise
    except Exception as e:  # noqa: BLE001  (ONNX Runtime raises what it likes)
        raise explain(e, "the proof") from None


def _has_nan(array: Array) -> bool:
    return np.asarray(array).dtype.kind == "f" and bool(np.isnan(array).any())


def _has_finite(array: Array) -> bool:
    kind = np.asarray(array).dtype.kind
    return kind not in "fc" or not np.size(array) or bool(np.isfinite(array).any())
