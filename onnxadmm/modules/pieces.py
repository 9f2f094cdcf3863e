"""A graph of one batch size, trained on batches of any: in pieces of its own size, where it takes no other."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onnxadmm.errors import UnsupportedError
from onnxadmm.modules.importing import Imported
from onnxadmm.ops.element_types import to_torch

Array = np.ndarray[Any, Any]

TRIED = 3
"""So many of its batches at once show whether a graph takes another number of samples."""
TOLERANCE = 1e-4


class Pieces(nn.Module):
    """A module called on pieces of its own batch size; the last one is filled up with copies of the last sample."""

    def __init__(self, module: nn.Module, rows: int, output: int, axis: int) -> None:
        """Wrap a module.

        Args:
            module: Takes tensors [rows, ...] and single numbers [], returns a tuple of outputs.
            rows: Its batch size.
            output: The output that is asked for.
            axis: Its axis of samples; as many of its rows belong to each sample.
        """
        super().__init__()
        self.module, self._rows, self._output, self._axis = module, rows, output, axis

    def forward(self, *inputs: Tensor) -> tuple[Tensor | None, ...]:
        """Return a tuple that holds the output over all samples, and None for those before it.

        Raises:
            UnsupportedError: The output has no axis of samples.
        """
        count = next(len(x) for x in inputs if x.dim())
        missing = -count % self._rows
        filled = [
            torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing and x.dim() else x
            for x in inputs
        ]
        parts = [
            self.module(*(x[start : start + self._rows] if x.dim() else x for x in filled))[
                self._output
            ]
            for start in range(0, count, self._rows)
        ]
        if parts[0].dim() <= self._axis:
            raise UnsupportedError(
                f"output {self._output + 1} has no axis of samples, so no loss of them can be taken; let "
                "objective.output name another"
            )
        whole = torch.cat(parts, self._axis) if len(parts) > 1 else parts[0]
        each = whole.shape[self._axis] // (count + missing)
        kept = whole.narrow(self._axis, 0, count * each) if missing else whole
        return (*[None] * self._output, kept)


def for_any_batch(
    imported: Imported,
    rows: int,
    *,
    output: int,
    axis: int,
    sample: Callable[[int], Mapping[str, Array]],
) -> Imported:
    """Return an import whose module may be called on any number of samples.

    Exporters write the batch size down: in the shape of a Reshape, in the first state of an LSTM. Torch often takes
    any other all the same, and computes the same in less time; that is tried.

    Args:
        imported: Of a graph whose inputs declare a batch size.
        rows: That size.
        output: The output that is asked for.
        axis: Its axis of samples.
        sample: Returns so many samples, each input [n, ...].
    """
    pieces = Pieces(imported.module, rows, output, axis)
    feed = sample(TRIED * rows)
    tensors = [to_torch(feed[n]) for n in imported.inputs]
    training = imported.module.training
    imported.module.eval()
    whole = None
    with torch.inference_mode():
        (*_, apart) = pieces(*tensors)
        # What torch raises where shapes don't fit is of many kinds, and torch.fx prints it beside.
        with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
            whole = imported.module(*tensors)[output]
    imported.module.train(training)
    return imported if _agree(whole, apart) else replace(imported, in_pieces=pieces)


def _agree(whole: Any, apart: Any) -> bool:
    if not isinstance(whole, Tensor) or whole.shape != apart.shape or whole.dtype != apart.dtype:
        return False
    if not whole.is_floating_point():
        return bool(torch.equal(whole, apart))
    scale = float(apart.abs().amax()) if apart.numel() else 0.0
    return bool(torch.allclose(whole, apart, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True))
