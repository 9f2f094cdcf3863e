"""A running average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """An exponential moving average over steps.

    At step n the decay is at most (1 + n) / (10 + n): the first steps are far from where a run ends, and
    would weigh on the average for long.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        """Start at the weights as they are.

        Args:
            weights: The live ones, by name.
            decay: Share of the old average that stays at each step, once there were many.
        """
        self.held = {n: w.detach().clone() for n, w in weights.items()}
        self.steps = 0
        self._weights, self._decay = dict(weights), decay

    @torch.no_grad()
    def follow(self) -> None:
        """Take the weights after a step into the average."""
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        live = [w.detach() for w in self._weights.values()]
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(list(self.held.values()), live, self.steps)

    @torch.no_grad()
    def restore(self, held: Mapping[str, Tensor], steps: int) -> None:
        """Take the average from a checkpoint."""
        for name, tensor in self.held.items():
            tensor.copy_(held[name])
        self.steps = steps

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the average stand in the weights' place for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def take(self) -> None:
        """Set the weights to the average."""
        for name, weight in self._weights.items():
            weight.copy_(self.held[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._weights.items():
            live = weight.detach().clone()
            weight.copy_(self.held[name])
            self.held[name].copy_(live)
