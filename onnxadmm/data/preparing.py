"""From stored samples to what the model takes: scaled, normalised, in its dtype and shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxadmm.errors import SpecError, one_line
from onnxadmm.spec import Preprocess


def is_float(dtype: np.dtype[Any]) -> bool:
    """Return whether a type is one of floats (bfloat16, which NumPy calls void, among them)."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


@dataclass(frozen=True, slots=True)
class InputInfo:
    """An input as the model declares it; the first axis is the batch."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    @property
    def is_float(self) -> bool:
        """Whether the input takes floats."""
        return is_float(self.dtype)


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no one answer to ==
class Preparation:
    """All preprocessing of one input, fused: `(stored - offset) * factor`.

    Subtracting first keeps the digits of samples that lie close together far from zero, which
    `stored * factor + shift` would lose.

    `sample` is the shape of one sample as the model takes it, `dtype` what the model takes,
    `working` what is computed in. `factor` and `offset` are scalars, [C, 1, ...] or [C]; None means that
    nothing is done.
    """

    dtype: np.dtype[Any]
    sample: tuple[int, ...]
    working: np.dtype[Any]
    factor: NDArray[Any] | None = None
    offset: NDArray[Any] | None = None

    def __call__(self, stored: NDArray[Any], *, copy: bool = True) -> NDArray[Any]:
        """Prepare a batch.

        Args:
            stored: [B, ...] as in the file.
            copy: Whether the result must not share memory with `stored`.

        Returns:
            [B, *sample] in the model's dtype.
        """
        batch = stored.reshape(len(stored), *self.sample)
        if self.factor is None:
            return batch.astype(self.dtype, copy=copy)
        result: NDArray[Any]
        if self.offset is None:
            result = np.multiply(batch, self.factor, dtype=self.working)
        else:
            result = np.subtract(batch, self.offset, dtype=self.working)
            np.multiply(result, self.factor, out=result)
        return result.astype(self.dtype, copy=False)


def steps_for(steps: Sequence[Preprocess], info: InputInfo) -> list[Preprocess]:
    """Return the steps that apply to an input: those that name it, and for floats the general ones."""
    return [s for s in steps if (info.is_float if s.inputs is None else info.name in s.inputs)]


def check_steps(steps: Sequence[Preprocess], inputs: Sequence[InputInfo]) -> None:
    """Refuse a step that names an input which the model lacks, or which takes no floats.

    Raises:
        SpecError: Names the step and the input.
    """
    by_name = {info.name: info for info in inputs}
    for number, step in enumerate(steps):
        for name in step.inputs or ():
            where = f"data.preprocess.{number}.inputs: {one_line(repr(name), 60)}"
            if name not in by_name:
                raise SpecError(
                    f"{where} is no input of the model; it has {one_line(', '.join(by_name), 100)}"
                )
            if not by_name[name].is_float:
                raise SpecError(
                    f"{where} takes {by_name[name].dtype}, and a step makes floats; leave it out"
                )


def prepare(
    steps: Sequence[Preprocess], info: InputInfo, stored: np.dtype[Any], sample: tuple[int, ...]
) -> Preparation:
    """Fuse the steps of one input.

    Args:
        steps: Those that apply, in order.
        info: The input.
        stored: The dtype in the file. What float32 can't hold exactly is computed in float64.
        sample: The shape of a sample as the model takes it, [C, ...] or [..., C].

    Raises:
        SpecError: A `normalize` has another length than the channels, or the steps overflow.
    """
    working = np.result_type(
        stored, np.float64 if info.dtype == np.float64 else np.float32
    ).newbyteorder("=")
    if not steps:
        return Preparation(info.dtype, sample, working)
    factor: NDArray[np.float64] = np.ones(())
    offset: NDArray[np.float64] = np.zeros(())
    with np.errstate(all="ignore"):  # what overflows is refused below
        for step in steps:
            if step.scale is not None:
                factor = factor * step.scale
            if step.normalize is not None:
                shape = _channels(len(step.normalize.mean), info, sample)
                mean = np.array(step.normalize.mean).reshape(shape)
                std = np.array(step.normalize.std).reshape(shape)
                offset = offset + mean / factor
                factor = factor / std
        factor, offset = factor.astype(working), offset.astype(working)
    if not (np.isfinite(factor).all() and (factor > 0).all() and np.isfinite(offset).all()):
        raise SpecError(
            f"data.preprocess: together the steps for input {one_line(repr(info.name), 60)} leave the "
            f"range of {working}; use less extreme numbers"
        )
    return Preparation(info.dtype, sample, working, factor, offset if offset.any() else None)


def _channels(length: int, info: InputInfo, sample: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in which so many values meet a sample: one for all, or along its channels."""
    if length == 1:
        return ()
    first, last = (sample[0], sample[-1]) if sample else (1, 1)
    if length == first:
        return (-1,) + (1,) * (len(sample) - 1)
    if length == last:
        return (-1,)
    either = f"{first} channels (axis 1)"
    if len(sample) > 1:
        either += f", or {last} where they are last (axis {len(sample)})"
    raise SpecError(
        f"data.preprocess: normalize has {length} values, but input "
        f"{one_line(repr(info.name), 60)} has {either}; give one, or one a channel"
    )
