"""What training takes of the machine, estimated before it starts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxadmm.errors import ResourceError
from onnxadmm.graph import Probe
from onnxadmm.memory import GIB
from onnxadmm.spec import Schedule
from onnxadmm.training.checkpoints import KEPT
from onnxadmm.training.optimizers import state_copies
from onnxadmm.training.teacher import CACHE_BYTES

# torch hands these on as views of their input.
_VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Transpose", "Split", "Slice"}
_LEAST_DISK = 1 << 20


@dataclass(frozen=True)
class Demand:
    """Bytes that training takes, by what takes them.

    Attributes:
        weights: The parameters, and the teacher's copy where there is one.
        gradients: One for each parameter.
        optimizer: Its state, and the weights' running average.
        admm: Z and U.
        activations: What a step keeps for its backward pass, or an evaluation needs at once.
        teacher: Its kept answers.
        retreat: The copy of the state at the start of the epoch, on the disk.
        checkpoints: All that are on the disk at once.
    """

    weights: int
    gradients: int
    optimizer: int
    admm: int
    activations: int
    teacher: int
    retreat: int
    checkpoints: int

    @property
    def memory(self) -> int:
        """All that is in memory at once, in bytes."""
        kept = self.weights + self.gradients + self.optimizer + self.admm
        return kept + self.activations + self.teacher

    @property
    def disk(self) -> int:
        """All that is on the disk at once, in bytes."""
        return self.checkpoints + self.retreat


def estimate(
    model: ir.Model,
    seen: Probe,
    schedule: Schedule,
    *,
    batch_size: int,
    samples: int,
    constrained: Sequence[Sequence[str]] = (),
    levelled: Sequence[Sequence[str]] = (),
    trained: Iterable[str] = (),
    teacher_output: str | None = None,
    kept_answers: bool = True,
) -> Demand:
    """Estimate from shapes, without allocating anything.

    Activations are those of the probe, element for element of the batch; what torch keeps beside them
    (workspaces, allocator slack) isn't counted, and some that it needn't keep are.

    Args:
        model: The graph.
        seen: Its shapes; the probe's batch is the first dimension of its inputs.
        schedule: Epochs and optimizer.
        batch_size: Samples a step.
        samples: Samples to train on.
        constrained: The weights of each constraint, where ADMM prunes.
        levelled: Those of each constraint towards levels, where ADMM trains them afterwards.
        trained: Weights that are no initializers.
        teacher_output: The output that a teacher answers with, where there is one.
        kept_answers: Whether its answers to the samples are kept where they are few.
    """
    names = {*model.graph.initializers, *trained}
    sizes = {n: _bytes(seen, n) for n in names if seen.dtypes.get(n, "").startswith("float")}
    weights = sum(sizes.values())
    optimizer = state_copies(schedule.optimizer) * weights
    average = weights if schedule.ema is not None and schedule.retrain else 0
    stages = [s for s in (constrained, levelled) if s]
    pairs = [2 * sum(sizes.get(n, 0) for c in s for n in c) for s in stages]
    admm = max(pairs, default=0)
    # One stage comes after the other; training on levels may take an average too.
    state = weights + optimizer + max([average, *pairs])
    rows = next((a.shape[0] for a in seen.inputs.values() if a.ndim), 1) or 1
    kept, largest = _activations(model, seen)
    step = (kept + 2 * largest) * batch_size / rows
    answers = 0
    if teacher_output is not None and kept_answers:
        answers = _bytes(seen, teacher_output) * samples // rows
        answers = answers if answers <= CACHE_BYTES else 0
    # The last two and the one that is being written; each holds the state that a retreat goes back to as well.
    kept_by_stage = 2 * sum(weights + optimizer + max(p, average) for p in pairs)
    if schedule.retrain:
        kept_by_stage += 2 * (weights + optimizer + average)
    return Demand(
        weights=weights * (2 if teacher_output is not None else 1),
        gradients=weights,
        optimizer=optimizer + average,
        admm=admm,
        activations=math.ceil(step),
        teacher=answers,
        retreat=state,
        checkpoints=(KEPT + 1) * kept_by_stage,
    )


def require(demand: Demand, *, memory_bytes: int, disk_bytes: int, where: str) -> None:
    """Refuse training that can't fit.

    Args:
        demand: What it takes.
        memory_bytes: What is free where it trains.
        disk_bytes: What is free in the output folder, or where temporary files go if there is none.
        where: `memory` or `GPU memory`, for the message.

    Raises:
        ResourceError: It doesn't fit; gives the numbers.
    """
    if demand.memory > memory_bytes:
        state = demand.memory - demand.activations
        raise ResourceError(
            f"training needs about {_text(demand.memory)} of {where} ({_text(state)} for weights, gradients, optimizer "
            f"and ADMM, {_text(demand.activations)} for a batch), {_text(memory_bytes)} is free; "
            "lower data.batch_size, or use a machine with more"
        )
    if demand.disk + _LEAST_DISK > disk_bytes:
        what = "checkpoints need" if demand.checkpoints else "the state to go back to needs"
        without = demand.checkpoints and demand.retreat + _LEAST_DISK <= disk_bytes
        least = (
            f", or run with --no-checkpoints, which can't be resumed (then {_text(demand.retreat + _LEAST_DISK)})"
            if without
            else ""
        )
        raise ResourceError(
            f"{what} about {_text(demand.disk + _LEAST_DISK)} of disk space, {_text(disk_bytes)} is free; free space, or "
            f"choose an output folder (without one, TMPDIR) where there is more{least}"
        )


def _activations(model: ir.Model, seen: Probe) -> tuple[int, int]:
    """Return the bytes of all computed values, and of the largest."""
    sizes = [_bytes(seen, n) for n in seen.inputs]
    for node in model.graph:
        if node.op_type not in _VIEWS | {"Constant"}:
            sizes += [_bytes(seen, v.name) for v in node.outputs if v.name in seen.shapes]
    return sum(sizes), max(sizes, default=0)


def _bytes(seen: Probe, name: str | None) -> int:
    if name not in seen.shapes:
        return 0
    kind = seen.dtypes.get(name, "float32")
    width = 4 if kind in ("object", "bfloat16") else _width(kind)
    return math.prod(seen.shapes[name]) * width


def _width(kind: str) -> int:
    try:
        return np.dtype(kind).itemsize
    except TypeError:  # float8 and 4-bit types
        return 1


def _text(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB // 10 else f"{count / (1 << 20):.1f} MiB"
