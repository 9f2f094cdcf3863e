"""Ranges of activations, observed on real samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.bench import open_isolated, run
from onnxadmm.errors import DataError, one_line
from onnxadmm.quantize.clipping import least_divergence, least_squared_error
from onnxadmm.spec import ActivationQuantization

Array = np.ndarray[Any, Any]

RESERVOIR = 1 << 20
"""Values of one tensor that are kept to choose its range; more are thinned at a fixed stride."""


@dataclass(frozen=True, slots=True)
class Range:
    """The values of a tensor, from low to high; it always holds 0, so that padding stays exact."""

    low: float
    high: float

    def quantized(self, signed: bool) -> tuple[np.float32, Array]:
        """Return the scale, and the zero point as an int8 or uint8 scalar."""
        kind, bottom = (np.int8, -128) if signed else (np.uint8, 0)
        # What was always zero has no scale of its own: 1, since a bias is stored on the scale behind it.
        span = self.high - self.low or 255.0
        span = max(span, float(np.finfo(np.float32).tiny) * 255)
        scale = np.float32(span / 255)
        zero = int(np.clip(np.rint(bottom - self.low / float(scale)), bottom, bottom + 255))
        return scale, np.array(zero, kind)


def observe(
    model: ir.Model,
    tensors: Mapping[str, ActivationQuantization],
    feeds: Iterable[Mapping[str, Array]],
) -> dict[str, Range]:
    """Run the model and return the range of each named tensor.

    Args:
        model: The float graph; it isn't changed.
        tensors: Names of float values to watch, each with how its range is chosen.
        feeds: Batches of real inputs.

    Raises:
        DataError: A value isn't finite.
    """
    watched = model.clone()
    outputs = {v.name for v in watched.graph.outputs}
    values = {v.name: v for n in watched.graph for v in n.outputs}
    for name in tensors:
        if name in values and name not in outputs:
            watched.graph.outputs.append(values[name])
    session = open_isolated(watched, name="the calibration model", optimize=False)
    fetched = [n for n in tensors if n in values]
    seen: dict[str, list[Array]] = {n: [] for n in tensors}
    extremes: dict[str, tuple[float, float]] = {}
    for feed in feeds:
        arrays = dict(zip(fetched, run(session, fetched, feed), strict=True))
        arrays.update({n: feed[n] for n in tensors if n in feed})
        for name, array in arrays.items():
            _record(name, np.asarray(array), seen, extremes)
    return {n: _range(np.concatenate(seen[n]), extremes[n], how) for n, how in tensors.items()}


def _record(
    name: str, array: Array, seen: dict[str, list[Array]], extremes: dict[str, tuple[float, float]]
) -> None:
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise DataError(
            f"value {one_line(name, 60)!r} is not finite on the calibration samples; check the data"
        )
    before = extremes.get(name, (0.0, 0.0))
    extremes[name] = (min(before[0], low), max(before[1], high))
    flat = array.reshape(-1)
    room = max(RESERVOIR // 16, 1)
    seen[name].append(flat[:: max(1, -(-flat.size // room))].astype(np.float32))


def _range(values: Array, extremes: tuple[float, float], settings: ActivationQuantization) -> Range:
    low, high = extremes
    if settings.calibrate == "mse":
        low, high = least_squared_error(values, low, high)
    elif settings.calibrate == "entropy":
        low, high = least_divergence(values, low, high)
    elif settings.calibrate == "percentile":
        tail = (100 - settings.percentile) / 2 if low < 0 else 100 - settings.percentile
        high = float(np.percentile(values, 100 - tail))
        low = float(np.percentile(values, tail)) if low < 0 else 0.0
        if low >= 0 >= high:
            # So few values aren't zero that the percentile is: they are all that there is to hold.
            low, high = extremes
    return Range(min(low, 0.0), max(high, 0.0))
