"""An end to what loops of a stranger's graph take in torch, where Python repeats their bodies.

How often a Loop runs can depend on its inputs, and an iteration costs a multiple of what it costs ONNX Runtime,
which is stopped by `bench.run`. Here each loop looks at the clock before it runs its body again.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator
from contextvars import ContextVar, Token
from typing import Any

import torch
from torch import fx, nn

from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import Probe

BASE_S = 20.0
"""Seconds of computing that every pass may take."""
SLOWER = 20.0
"""A pass may take so many times longer than the probe's run, element of the inputs for element."""


class Overdue(UnsupportedError):  # noqa: N818  (what happened, as `Interrupted`)
    """A loop was stopped."""


_PROBE = "onnxadmm.probe"
_End = tuple[float, float]
_end: ContextVar[_End | None] = ContextVar("end of a pass", default=None)


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Within it, loops end after so many seconds of this thread's computing; what limits it already stays."""
    if _end.get() is not None:
        yield
        return
    token = _begin(seconds)
    try:
        yield
    finally:
        _end.reset(token)


def require_time() -> None:
    """Look at the clock.

    Raises:
        Overdue: The pass that goes on has taken its time.
    """
    end = _end.get()
    if end is not None and time.thread_time() > end[0]:
        raise Overdue(
            f"the model takes too long: a loop was stopped after {end[1]:.0f} s in torch, much more than its first run "
            "in ONNX Runtime took; it may never end on these inputs"
        )


def granted_s(probe: Probe, arguments: tuple[Any, ...] = ()) -> float:
    """Return how long a pass may take, in seconds.

    Args:
        probe: What a run took.
        arguments: Of the pass; by default as many elements as the probe's.
    """
    before = max(1, sum(a.size for a in probe.inputs.values()))
    now = sum(a.numel() for a in arguments if isinstance(a, torch.Tensor))
    return BASE_S + SLOWER * probe.seconds * max(1.0, now / before)


def limit_passes(module: fx.GraphModule, probe: Probe) -> None:
    """Limit every forward pass of a module from now on.

    Args:
        module: The module.
        probe: What a run of its graph took.
    """
    module.meta[_PROBE] = probe
    tokens: list[Token[_End | None]] = []

    def before(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        tokens.append(_begin(granted_s(probe, arguments)))

    def after(*_: object) -> None:
        _end.reset(tokens.pop())

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after, always_call=True)


def copied(module: nn.Module) -> nn.Module:
    """Return a deep copy of a module, limited as it is: torch.fx leaves hooks behind."""
    found = copy.deepcopy(module)
    for inner in found.modules():
        if isinstance(inner, fx.GraphModule) and _PROBE in inner.meta:
            limit_passes(inner, inner.meta[_PROBE])
    return found


def _begin(seconds: float) -> Token[_End | None]:
    return _end.set((time.thread_time() + seconds, seconds))
