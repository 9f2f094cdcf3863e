"""What a model is fed with, outside training: real samples where there are some, random ones elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxadmm.data import Dataset
from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import random_inputs, real_inputs
from onnxadmm.pipeline.request import Samples

Array = np.ndarray[Any, Any]
Feed = dict[str, Array]

PROOF_SAMPLES = 64
IMPORT_SAMPLES = 8
OTHER_BATCH = 2
"""Shapes that are computed, or were written down, must hold for other batches than the one that was probed."""
CALIBRATION_BATCH = 64
_WIDE = 1e4
EVALUATION_ROWS = 1024


class Inputs:
    """Feeds for one model: the original's and its compressed forms' interface is the same."""

    def __init__(
        self,
        model: ir.Model,
        shapes: Mapping[str, tuple[int, ...]],
        samples: Samples | None,
        seed: int,
        *,
        zeros: bool = False,
    ) -> None:
        """Choose what to feed.

        Args:
            model: The original.
            shapes: Shapes that it ran with.
            samples: The spec's data.
            seed: Of the random inputs.
            zeros: Whether random integers are zero: the model ran with no others (`Probe.zeros`).
        """
        self._zeros = zeros
        self._model = model
        self._ran_with = shapes
        self._samples = samples
        self._seed = seed

    def first(self) -> Feed:
        """Return a few training samples, to compare runtimes on.

        Raises:
            UnsupportedError: There are fewer than the model's fixed batch.
        """
        assert self._samples is not None
        return self._head(self._samples.train, IMPORT_SAMPLES)

    def proof(self) -> list[Feed]:
        """Return real inputs where there are some, and always random ones."""
        rng = np.random.default_rng([self._seed, 1])
        drawn = random_inputs(self._model, self._shapes(None), rng, zeros=self._zeros)
        # Some models take a logarithm or a root of what they are given: positive values as well. Drawn anew, so
        # that an output that depends on whole numbers alone moves too.
        other = random_inputs(self._model, self._shapes(None), rng, zeros=self._zeros)
        positive = {
            n: np.asarray(np.abs(a)) if a.dtype.kind == "f" else a for n, a in other.items()
        }
        held_out = self._held_out()
        real = [] if held_out is None else [self._head(held_out, PROOF_SAMPLES)]
        return [drawn, positive, *_with_ranges(drawn), *real]

    def other_batch(self) -> list[Feed]:
        """Return random inputs of another batch size than a proof's, where it is open; a model may refuse them."""
        if self.fixed_batch() is not None:
            return []
        rng = np.random.default_rng([self._seed, 2])
        return [random_inputs(self._model, self._shapes(OTHER_BATCH), rng, zeros=self._zeros)]

    def batch(self, size: int) -> Feed:
        """Return inputs for a batch: real samples, repeated if there are too few; else random ones."""
        data = self._held_out()
        if data is None:
            rng = np.random.default_rng(self._seed)
            return random_inputs(self._model, self._shapes(size), rng, zeros=self._zeros)
        inputs, _ = data.batch(np.arange(size) % len(data))
        return inputs

    def calibration(self, wanted: int) -> Iterator[Feed]:
        """Yield batches of about so many training samples."""
        assert self._samples is not None
        data = self._samples.train
        wanted = min(wanted, len(data))
        step = self._rows(CALIBRATION_BATCH, wanted)
        for start in range(0, wanted - step + 1, step):
            yield data.batch(slice(start, start + step))[0]

    def evaluation(self, data: Dataset) -> Iterator[Feed]:
        """Yield a whole set in pieces that are multiples of the model's own batch."""
        own = self.fixed_batch() or 1
        piece = own * -(-EVALUATION_ROWS // own)
        for start in range(0, len(data), piece):
            yield data.batch(slice(start, start + piece))[0]

    def _held_out(self) -> Dataset | None:
        return None if self._samples is None else self._samples.evaluate or self._samples.train

    def _head(self, data: Dataset, wanted: int) -> Feed:
        return data.batch(slice(0, self._rows(wanted, len(data))))[0]

    def _rows(self, wanted: int, there: int) -> int:
        """Return how many samples to feed at once."""
        fixed = self.fixed_batch()
        if fixed is not None and fixed > there:
            raise UnsupportedError(
                f"the model takes batches of {fixed} and the data has {there} samples; give more data"
            )
        return fixed or max(1, min(wanted, there))

    def fixed_batch(self) -> int | None:
        """Return the batch size that the model insists on, or None where it is open."""
        for value in real_inputs(self._model):
            shape = value.shape
            if shape is not None and len(shape) and isinstance(shape[0], int) and shape[0] > 0:
                return shape[0]
        return None

    def _shapes(self, batch: int | None) -> dict[str, tuple[int, ...]]:
        """Return shapes that the model ran with, for another batch size where it is open."""
        shapes: dict[str, tuple[int, ...]] = {}
        for value in real_inputs(self._model):
            shape = self._ran_with[value.name or ""]
            declared = value.shape
            free = declared is not None and len(declared) and not isinstance(declared[0], int)
            shapes[value.name or ""] = (batch, *shape[1:]) if batch and free else shape
        return shapes


def _with_ranges(drawn: Feed) -> list[Feed]:
    """Return the inputs with wide ranges as scalars: a lower and an upper bound, in either order.

    A model that looks for something between two numbers that it is given finds nothing between two draws
    from N(0, 1), and answers with values that aren't finite.
    """
    scalars = [n for n, a in drawn.items() if a.size == 1 and not a.ndim and a.dtype.kind == "f"]
    if len(scalars) < 2:  # noqa: PLR2004  (bounds come in pairs)
        return []
    values = [0.0] * (len(scalars) - 1) + [_WIDE]
    return [
        {**drawn, **{n: np.array(v, drawn[n].dtype) for n, v in zip(scalars, order, strict=True)}}
        for order in (values, values[::-1])
    ]
