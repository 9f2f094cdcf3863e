"""Outputs that are nothing but rounding: the mean of what was centred is zero, and a run shows noise of it.

Such an output has no scale to measure a difference by: of two graphs that both compute it right, each rounds in its
own way. It is told by moving every weight and every input by one rounding: noise then changes by about as
much as there is of it, and any other value by a millionth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm import ops
from onnxadmm.bench import open_isolated, run
from onnxadmm.compact.deciding import jumps
from onnxadmm.graph import constant_of
from onnxadmm.graph.constants import set_constant

Array = np.ndarray[Any, Any]
Outputs = Mapping[str, Array]

TIMES = 16.0
"""An output is noise if it is no larger than so many times what one rounding of weights and inputs changes."""
# With other weights, and for each of those with other inputs.
_MODELS, _FEEDS = 3, 3


def only_rounding(
    model: ir.Model,
    feeds: Sequence[Mapping[str, Array]],
    expected: Sequence[Outputs],
    got: Sequence[Outputs],
    names: Sequence[str],
) -> list[str]:
    """Return those of some outputs that are noise in the model, and in the other one no larger.

    None where the model takes decisions that jump: there one rounding can change everything, and whether it
    does is another question. Cost: a few sessions and runs; weights are copied.

    Args:
        model: The model that outputs are compared with.
        feeds: Inputs.
        expected: What it makes of each of them, by name.
        got: What the other model does.
        names: Of the outputs in question.
    """
    if jumps(model):
        return []

    def is_noise(e: Array, g: Array, moved: Sequence[Array], _: int) -> bool:
        most = TIMES * max(a.max(initial=0) for a in moved)
        return all(_apart(e, other).max(initial=0) <= most for other in (0 * e, g))

    return _passing(model, feeds, expected, got, names, judge=is_noise)


def within_rounding(
    model: ir.Model,
    feeds: Sequence[Mapping[str, Array]],
    expected: Sequence[Outputs],
    got: Sequence[Outputs],
    names: Sequence[str],
    *,
    least: float,
) -> list[str]:
    """Return those of some values whose every element differs by no more than rounding may have changed it.

    For what decisions are taken from: the size of a box is a difference of two places, and its logarithm says
    on which level it is looked at. The cost is that of `only_rounding`.

    Args:
        model: The model that values are compared with.
        feeds: Inputs.
        expected: What it makes of each of them, by name.
        got: What the other model does.
        names: Of the values in question.
        least: A share of the largest element that any element may differ by: a few draws don't move each.
    """

    def is_within(e: Array, g: Array, moved: Sequence[Array], run: int) -> bool:
        allowed = TIMES * moved[run] + least * _apart(e, 0 * e).max(initial=0)
        return bool((_apart(e, g) <= allowed).all())

    return _passing(model, feeds, expected, got, names, judge=is_within)


def _passing(
    model: ir.Model,
    feeds: Sequence[Mapping[str, Array]],
    expected: Sequence[Outputs],
    got: Sequence[Outputs],
    names: Sequence[str],
    *,
    judge: Callable[[Array, Array, Sequence[Array], int], bool],
) -> list[str]:
    """Return the values that `judge` lets pass on all feeds.

    It is given what the model made of a feed and what the other one did, by how much rounding moves each element
    for each feed, and which feed it is.
    """
    moved = _moved(model, feeds, expected, names) if names else {}
    return [
        name
        for name, arrays in moved.items()
        if all(
            judge(np.asarray(e[name]), np.asarray(g[name]), arrays, k)
            for k, (e, g) in enumerate(zip(expected, got, strict=True))
        )
    ]


def _moved(
    model: ir.Model,
    feeds: Sequence[Mapping[str, Array]],
    expected: Sequence[Outputs],
    names: Sequence[str],
) -> dict[str, list[Array]]:
    """Return by how much one rounding of weights and inputs moves each element, by name, for each feed."""
    rng = np.random.default_rng(0)
    moved = {n: [np.zeros(np.shape(values[n])) for values in expected] for n in names}
    for _ in range(_MODELS):
        session = open_isolated(_rounded_weights(model, rng), name="the masked model")
        for _ in range(_FEEDS):
            for k, (feed, values) in enumerate(zip(feeds, expected, strict=True)):
                inputs = {n: _rounded(a, rng) for n, a in feed.items()}
                try:
                    shown = run(session, list(names), inputs)
                except Exception:  # noqa: BLE001  (ONNX Runtime raises what it likes)
                    return {}
                for name, array in zip(names, shown, strict=True):
                    moved[name][k] = np.maximum(moved[name][k], _apart(values[name], array))
    return moved


def _rounded_weights(model: ir.Model, rng: np.random.Generator) -> ir.Model:
    """Return a copy of the model with each weight moved by one rounding at most; zeros stay zeros."""
    moved = model.clone()
    for value in ops.weights(moved).values():
        content = constant_of(value)
        if content is not None and content.dtype.kind == "f":
            set_constant(value, _rounded(content, rng))
    return moved


def _rounded(array: Array, rng: np.random.Generator) -> Array:
    if array.dtype.kind != "f":
        return array
    step = float(np.finfo(array.dtype).eps) * rng.uniform(-1, 1, array.shape)
    return np.asarray(array * (1 + step), array.dtype)


def _apart(a: Array, b: Array) -> Array:
    """Return the differences; NaN, which no bound holds, where they can't be compared."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind != "f" or a.shape != b.shape:
        return np.full(1, np.nan)
    with np.errstate(invalid="ignore"):
        return np.abs(a.astype(np.float64) - b.astype(np.float64))
