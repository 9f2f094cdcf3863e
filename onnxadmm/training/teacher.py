"""The original model as a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onnxadmm.data import Dataset
from onnxadmm.errors import DataError
from onnxadmm.modules.deadline import copied
from onnxadmm.training.objectives import Goal

CACHE_BYTES = 512 << 20
"""The teacher's outputs are computed once, in order, where they fit into so many bytes."""
GLANCED = 512
"""So many samples are asked at once, and tell what outputs are like."""


class Teacher:
    """A frozen copy of the original. Its answers to the training set are kept where memory allows."""

    def __init__(self, module: nn.Module, goal: Goal, output: int, device: torch.device) -> None:
        """Copy a module before it is trained.

        Args:
            module: The original; returns a tuple of outputs.
            goal: Tells which axis of the output the samples are.
            output: Index of the output that teaches.
            device: Where it runs.
        """
        self._goal = goal
        self.module = copied(module).to(device).eval().requires_grad_(False)
        self.index = output
        self.device = device
        self.cache: Tensor | None = None
        # Each with its data set: an id is free again once its object is gone.
        self._evaluated: dict[int, tuple[Dataset, np.ndarray[Any, Any]]] = {}

    @classmethod
    def of(
        cls,
        module: nn.Module,
        goal: Goal,
        output: int,
        device: torch.device | None = None,
    ) -> Teacher | None:
        """Return a teacher where the loss or the metric asks for one, on the device that trains."""
        if device is None:
            from accelerate import PartialState

            device = PartialState(cpu=not torch.cuda.is_available()).device
        return cls(module, goal, output, device) if goal.asks_original else None

    def prepare(self, data: Dataset, names: Sequence[str]) -> None:
        """Compute the answers to every sample, always in the same order, so that a resumed run agrees."""
        first = self._ask(data, names, slice(0, 1))
        if first.nbytes * len(data) > CACHE_BYTES:
            return
        answers = np.empty((len(data), *first.shape[1:]), first.dtype)
        for start in range(0, len(data), GLANCED):
            answers[start : start + GLANCED] = self._ask(data, names, slice(start, start + GLANCED))
        self.cache = torch.from_numpy(answers).to(self.device)

    def some(self, data: Dataset, names: Sequence[str]) -> np.ndarray[Any, Any]:
        """Return the answers to the first samples of a set: what outputs are like."""
        return self._ask(data, names, slice(0, GLANCED))

    def output(
        self, index: np.ndarray[Any, Any], inputs: Sequence[Tensor], *, as_stored: bool = True
    ) -> Tensor:
        """Return the answers to these samples of the training set.

        Args:
            index: Which ones.
            inputs: What the model takes of them.
            as_stored: Whether these are the samples as they lie in the set, to which answers may be at hand.
        """
        if self.cache is not None and as_stored:
            return self.cache[torch.from_numpy(index).to(self.device)]
        with torch.no_grad():
            return self._goal.rows(self.module(*inputs)[self.index])

    def outputs_for(self, data: Dataset, names: Sequence[str]) -> np.ndarray[Any, Any]:
        """Return the answers to a whole set, computed once."""
        if id(data) not in self._evaluated:
            pieces = [
                self._ask(data, names, slice(s, s + GLANCED)) for s in range(0, len(data), GLANCED)
            ]
            self._evaluated[id(data)] = (data, np.concatenate(pieces))
        return self._evaluated[id(data)][1]

    @torch.inference_mode()
    def _ask(self, data: Dataset, names: Sequence[str], index: slice) -> np.ndarray[Any, Any]:
        inputs, _ = data.batch(index)
        tensors = [torch.from_numpy(inputs[n]).to(self.device) for n in names]
        answer = np.asarray(
            self._goal.rows(self.module(*tensors)[self.index]).float().cpu().numpy()
        )
        unknown = np.isnan(answer).reshape(len(answer), -1).any(1)
        if unknown.any():
            # A sample may have several rows: one for each of its tokens.
            asked = len(next(iter(inputs.values())))
            sample = (index.start or 0) + int(unknown.argmax()) * asked // len(answer)
            raise DataError(
                f"data: the original model itself answers NaN to sample {sample}, and is asked to teach or to be agreed "
                "with; leave such samples out, or take labels for loss and metric"
            )
        return answer
