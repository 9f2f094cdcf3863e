"""The proof: the cut graph computes what the masked one computes, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.bench import open_session
from onnxadmm.errors import VerificationError, one_line
from onnxadmm.graph import model_bytes

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


def compare_outputs(
    expected: Mapping[str, Array] | Sequence[Array], got: Mapping[str, Array] | Sequence[Array]
) -> float:
    """Return the largest difference of any output, relative to the output's own scale.

    Not-a-number anywhere, or another shape, is infinitely far away.
    """
    pairs = (
        [(expected[n], got[n]) for n in expected]
        if isinstance(expected, Mapping) and isinstance(got, Mapping)
        else list(zip(expected, got, strict=True))
    )
    worst = 0.0
    for a, b in pairs:
        x, y = np.asarray(a), np.asarray(b)
        if x.shape != y.shape:
            return float("inf")
        if x.dtype.kind not in "fiu" or not x.size:
            worst = worst if np.array_equal(x, y) else float("inf")
            continue
        x64, y64 = x.astype(np.float64), y.astype(np.float64)
        scale = float(np.abs(x64).max()) or 1.0
        error = float(np.abs(x64 - y64).max()) / scale
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst


def prove(masked: ir.Model, cut: ir.Model, feeds: Sequence[Mapping[str, Array]]) -> Proof:
    """Run both models on the same inputs and measure how far they are apart.

    Args:
        masked: The original graph with the dead channels set to zero.
        cut: The graph without them.
        feeds: Inputs, real and random ones.

    Raises:
        VerificationError: They differ by more than `TOLERANCE`. Nothing may be written then.
    """
    reference = open_session(model_bytes(masked), name="the masked model")
    candidate = open_session(model_bytes(cut), name="the cut model")
    names = [o.name for o in reference.get_outputs()]
    worst, samples = 0.0, 0
    for feed in feeds:
        inputs = dict(feed)
        expected, got = reference.run(names, inputs), candidate.run(names, inputs)
        worst = max(worst, compare_outputs(expected, got))
        samples += len(next(iter(inputs.values()), np.zeros(1)))
    if not worst <= TOLERANCE:
        raise VerificationError(
            f"the cut model differs from the masked one by {worst:.2g} of the largest output "
            f"{one_line(names[0], 40)!r} (allowed {TOLERANCE:g}); this is a bug in onnxadmm, please report the model"
        )
    return Proof(worst, samples)
