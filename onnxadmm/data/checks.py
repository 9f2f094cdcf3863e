"""The whole of the data against the model, before the first step.

The checks of a layout look only at headers, so what can't fit is refused before it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxadmm.data.preparing import InputInfo, Preparation
from onnxadmm.data.stored import StoredArray, shape_text
from onnxadmm.errors import DataError, one_line

# Values looked at in one go: enough for vector speed, too few to weigh on memory.
_CHUNK_VALUES = 1 << 18


def check_counts(arrays: Mapping[str, StoredArray]) -> int:
    """Return the number of samples, the same in every array and not zero.

    Raises:
        DataError: An array has no axis, is empty, or disagrees with the first.
    """
    first: StoredArray | None = None
    for what, stored in arrays.items():
        if not stored.shape:
            raise DataError(
                f"{stored.title}: shape [] for {what} is one number without a batch axis; store [N, ...]"
            )
        if 0 in stored.shape:
            raise DataError(
                f"{stored.title}: shape {shape_text(stored.shape)} for {what} holds no values; "
                "give at least one sample"
            )
        first = first or stored
        if stored.shape[0] != first.shape[0]:
            raise DataError(
                f"{stored.title}: {stored.shape[0]} samples for {what}, but {first.title} has "
                f"{first.shape[0]}; give the same count of each"
            )
    if first is None:
        raise DataError("data: no array is named; give a file for each input of the model")
    return first.shape[0]


def fit_sample(stored: StoredArray, info: InputInfo) -> tuple[int, ...]:
    """Return the shape of one sample as the model takes it.

    Unit axes that the file lacks are inserted ([N, 28, 28] for an input [N, 1, 28, 28]); nothing else
    is ever reshaped. Symbolic axes of the model fit any size.

    Args:
        stored: The samples [N, ...].
        info: An input with a batch axis.

    Raises:
        DataError: The samples have another shape.
    """
    expected = info.shape[1:]
    fitted = _insert_unit_axes(stored.shape[1:], expected)
    if fitted is not None:
        return fitted
    shape = shape_text(stored.shape)
    declared = one_line(f"[{', '.join('?' if n is None else str(n) for n in info.shape)}]", 80)
    start = f"{stored.title}: shape {shape} doesn't fit input {one_line(repr(info.name), 60)} {declared}"
    if _insert_unit_axes(stored.shape, expected) is not None:
        raise DataError(f"{start}: the batch axis is missing; store [N, {shape[1:]}")
    if len(stored.shape) > 2:  # noqa: PLR2004
        channels_first = (stored.shape[-1], *stored.shape[1:-1])
        if _insert_unit_axes(channels_first, expected) is not None:
            raise DataError(f"{start}: channels come last; move axis {len(stored.shape) - 1} to 1")
    raise DataError(f"{start} (axis 0 is the batch); store the samples in the shape of the model")


def _insert_unit_axes(
    held: tuple[int, ...], expected: tuple[int | str | None, ...]
) -> tuple[int, ...] | None:
    """Return `held` with unit axes inserted where `expected` says 1; None when it can't fit."""

    @cache
    def fit(i: int, j: int) -> tuple[int, ...] | None:
        if j == len(expected):
            return () if i == len(held) else None
        wanted = expected[j]
        if i < len(held) and (not isinstance(wanted, int) or wanted == held[i]):
            rest = fit(i + 1, j + 1)
            if rest is not None:
                return (held[i], *rest)
        rest = fit(i, j + 1) if wanted == 1 else None
        return None if rest is None else (1, *rest)

    return fit(0, 0)


def check_dtype(stored: StoredArray, info: InputInfo, *, preprocessed: bool) -> None:
    """Refuse a dtype that would have to be cast or rescaled behind the user's back.

    Integers of another width pass here; `check_values` looks whether they fit. Floats may widen.

    Raises:
        DataError: Says which step or conversion makes it fit.
    """
    held, wanted = stored.dtype, info.dtype
    start = f"{stored.title}: dtype {held.name}, but input {one_line(repr(info.name), 60)} takes {wanted.name}"
    if info.is_float:
        if preprocessed or (held.kind == "f" and np.can_cast(held, wanted)):
            return
        if held.kind == "f":
            # NumPy has no bfloat16: no file can hold it
            store = f"store {wanted.name}, or " if wanted.kind == "f" else ""
            raise DataError(
                f"{start}: rounding is never silent; {store}add to data `preprocess: [{{scale: 1.0}}]`"
            )
        scale = 1 / 255 if held == np.uint8 else 1.0
        raise DataError(
            f"{start}: the range of the values is yours to say; add to data `preprocess: [{{scale: {scale}}}]`"
        )
    same = "iu" if wanted.kind in "iu" else wanted.kind
    if wanted.kind not in "iub":
        raise DataError(f"{start}, which no data file can hold; give the model a numeric input")
    if held.kind not in same:
        raise DataError(f"{start}; store it as {wanted.name}")


def check_values(stored: StoredArray, array: NDArray[Any], prepare: Preparation) -> None:
    """Refuse values that aren't finite, or that the model's dtype can't hold.

    Raises:
        DataError: Names the first such sample.
    """
    if prepare.dtype.kind in "iu":
        bounds = np.iinfo(prepare.dtype)
        held = np.iinfo(array.dtype)
        if held.min >= bounds.min and held.max <= bounds.max:
            return
        for start, chunk in _chunks(array):
            found = _first((chunk < bounds.min) | (chunk > bounds.max), chunk)
            if found is not None:
                raise DataError(
                    f"{stored.title}: sample {start + found[0]} holds {found[1]}, out of the range of "
                    f"{prepare.dtype.name}, the model's dtype; mend the sample"
                )
        return
    if prepare.dtype.kind == "b" or (
        array.dtype.kind != "f" and _stays_finite(array.dtype, prepare)
    ):
        return
    for start, chunk in _chunks(array):
        found = _first(~np.isfinite(chunk), chunk)
        if found is not None:
            raise DataError(
                f"{stored.title}: sample {start + found[0]} holds {found[1]} (nan or inf, not finite); "
                "mend or drop the sample"
            )
        if prepare.factor is None:
            continue
        with np.errstate(over="ignore"):
            prepared = prepare(chunk)
        found = _first(~np.isfinite(prepared), chunk)
        if found is not None:
            raise DataError(
                f"{stored.title}: sample {start + found[0]} holds {found[1]}, which preprocessing takes "
                f"out of the finite range of {prepare.dtype.name}; use a smaller scale"
            )


def check_classes(stored: StoredArray, classes: int | None, places: int = 0) -> None:
    """Refuse labels that can't be classes, by their header.

    Args:
        stored: The labels.
        classes: How many there are, if that is known.
        places: How many axes of a sample each have classes of their own: 2 of a segmentation, 1 of a text.

    Raises:
        DataError: They are no integers, or more or fewer than one a sample and place.
    """
    if stored.dtype.kind not in "iu":
        raise DataError(
            f"{stored.title}: labels have dtype {stored.dtype.name}, but classes are int, "
            f"{'0, 1, ...' if classes is None else f'0 to {classes - 1}'}; store integers"
        )
    if len(stored.shape) != 1 + places:
        each = (
            f"sample and place is needed, {1 + places} axes"
            if places
            else "sample is needed, shape [N]"
        )
        raise DataError(
            f"{stored.title}: labels have shape {shape_text(stored.shape)}, but one class a {each}; store the "
            "index of the class"
        )


def check_class_values(stored: StoredArray, labels: NDArray[Any], classes: int | None) -> None:
    """Refuse labels out of range.

    Raises:
        DataError: Names the first such label and its sample.
    """
    end = classes if classes is not None else int(np.iinfo(np.int64).max)
    found = _first((labels < 0) | (labels >= end), labels)
    if found is not None:
        known = "0 and more" if classes is None else f"0..{classes - 1}"
        raise DataError(
            f"{stored.title}: label {found[1]} of sample {found[0]} is out of range, classes are {known}; "
            "mend the labels, or use the model they belong to"
        )


def check_targets(stored: StoredArray) -> None:
    """Refuse targets that aren't floats, by their header.

    Raises:
        DataError: Says the dtype.
    """
    if stored.dtype.kind != "f":
        raise DataError(
            f"{stored.title}: labels have dtype {stored.dtype.name}, but this loss needs float targets; "
            "store float32"
        )


def check_target_values(stored: StoredArray, targets: NDArray[np.float32]) -> None:
    """Refuse targets that aren't finite in float32.

    Raises:
        DataError: Names the first such sample.
    """
    for start, chunk in _chunks(targets):
        found = _first(~np.isfinite(chunk), chunk)
        if found is not None:
            raise DataError(
                f"{stored.title}: the label of sample {start + found[0]} is nan or inf, not finite in "
                "float32; mend or drop the sample"
            )


def _stays_finite(held: np.dtype[Any], prepare: Preparation) -> bool:
    """Whether no integer of this dtype can overflow; then nobody has to look at the values."""
    assert prepare.factor is not None
    bounds = (0, 1) if held.kind == "b" else (np.iinfo(held).min, np.iinfo(held).max)
    offset = 0.0 if prepare.offset is None else prepare.offset.astype(np.float64)
    factor = prepare.factor.astype(np.float64)
    with np.errstate(over="ignore"):
        ends = [((bound - offset) * factor).astype(prepare.dtype) for bound in bounds]
    return all(bool(np.isfinite(end).all()) for end in ends)


def _chunks(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the array in runs of samples, each with the index of its first."""
    step = max(1, _CHUNK_VALUES // max(1, array[0].size))
    for start in range(0, len(array), step):
        yield start, array[start : start + step]


def _first(bad: NDArray[np.bool_], values: NDArray[Any]) -> tuple[int, Any] | None:
    """Return the sample and the value of the first True, or None; both arrays are [B, ...]."""
    if not bad.any():
        return None
    position = int(bad.argmax())
    return position // bad[0].size, values.flat[position]
