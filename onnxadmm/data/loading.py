"""One split of the spec's data, from files to a checked data set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxadmm.data import checks
from onnxadmm.data.dataset import Dataset
from onnxadmm.data.limits import require_memory
from onnxadmm.data.npz import Wanted
from onnxadmm.data.opening import open_array
from onnxadmm.data.preparing import InputInfo, Preparation, check_steps, prepare, steps_for
from onnxadmm.data.stored import StoredArray, shape_text
from onnxadmm.errors import DataError, SpecError, one_line
from onnxadmm.spec import Data, Split

LabelKind = Literal["class", "float", "any", "none"]
LABEL_NAMES = ("y", "label", "labels")


def load_split(
    split: Split,
    data: Data,
    *,
    folder: Path,
    inputs: Sequence[InputInfo],
    classes: int | None,
    label_kind: LabelKind,
    places: int = 0,
) -> Dataset:
    """Read one split and check the whole of it against the model.

    Headers are checked first: what doesn't fit the model or the memory is never read.

    Args:
        split: The files, and how many samples to use.
        data: The section that holds the preprocessing.
        folder: What relative paths start from, the spec's own folder.
        inputs: The model's inputs.
        classes: How many classes the model tells apart, if that is known.
        places: How many axes of a sample each have classes of their own.
        label_kind: `class` for integers [N] or [N, places], `float` for targets (they become float32, what losses
            are computed in), `any` for either by their dtype, where there are any, `none` when labels
            aren't read.

    Raises:
        SpecError: The spec names inputs that the model lacks or forgets some, misses the labels, or
            has preprocessing that doesn't fit the input.
        DataError: A file can't be read, or an array doesn't fit; names file, array and sample.
        ResourceError: The arrays don't fit into memory, or the disk fails.
    """
    _check_names(split, inputs, label_kind)
    check_steps(data.preprocess, inputs)
    names = frozenset(info.name for info in inputs)
    with ExitStack() as stack:
        arrays: dict[str, StoredArray] = {
            info.name: open_array(split.inputs[info.name], folder, _wanted(info.name, names), stack)
            for info in inputs
        }
        labels: StoredArray | None = None
        if label_kind != "none" and split.labels is not None:
            wanted = Wanted("labels", LABEL_NAMES, names)
            labels = open_array(split.labels, folder, wanted, stack)
        single = {info.name for info in inputs if not info.shape}
        if len(single) == len(inputs):
            raise DataError(
                f"data: every input of the model ({one_line(', '.join(sorted(single)), 80)}) is a single number "
                "without a batch axis; such a model can't be trained on samples"
            )
        preparations = {info.name: _fit(arrays[info.name], info, data) for info in inputs}
        named = {_called(name): stored for name, stored in arrays.items() if name not in single}
        if labels is not None:
            _check_label_layout(labels, classes, label_kind, places)
            named["labels"] = labels
        count = checks.check_counts(named)
        samples = min(count, split.limit or count)
        require_memory(sum(stored.needed_bytes(samples) for stored in named.values()))

        values: dict[str, NDArray[Any]] = {}
        for name, stored in arrays.items():
            values[name] = _one_number(stored) if name in single else stored.read(samples)
            checks.check_values(stored, np.atleast_1d(values[name]), preparations[name])
        files = {name: stored.file for name, stored in arrays.items()}
        if labels is None:
            return Dataset(values, None, files, preparations)
        files["labels"] = labels.file
        return Dataset(
            values, _read_labels(labels, samples, classes, label_kind), files, preparations
        )


def _called(name: str) -> str:
    return f"input {one_line(name, 60)!r}"


def _wanted(name: str, names: frozenset[str]) -> Wanted:
    """Return what to look for as an input: its own name, and nobody else's."""
    return Wanted(_called(name), (name,), names.union(LABEL_NAMES) - {name})


def _check_names(split: Split, inputs: Sequence[InputInfo], label_kind: str) -> None:
    known = [info.name for info in inputs]
    has = one_line(", ".join(known), 100)
    for name in split.inputs:
        if name not in known:
            raise SpecError(
                f"data: {one_line(repr(name), 60)} is no input of the model; it has {has}"
            )
    for name in known:
        if name not in split.inputs:
            raise SpecError(
                f"data: no file for the model's input {one_line(repr(name), 60)}; add it to `inputs`"
            )
    if label_kind in ("class", "float") and split.labels is None:
        raise SpecError(
            "data: the objective needs labels and none are named; add `labels: FILE` to the split, "
            "or use `loss: distill`"
        )


def _fit(stored: StoredArray, info: InputInfo, data: Data) -> Preparation:
    steps = steps_for(data.preprocess, info)
    if info.shape:
        checks.check_counts({_called(info.name): stored})
    checks.check_dtype(stored, info, preprocessed=bool(steps))
    sample = checks.fit_sample(stored, info) if info.shape else ()
    return prepare(steps, info, stored.dtype, sample)


def _one_number(stored: StoredArray) -> NDArray[Any]:
    """Read the value [] of an input that is a single number, the same for all samples.

    Raises:
        DataError: There are several, or none.
    """
    values = stored.read()
    if not values.size or (values != values.flat[0]).any():
        what = "no number" if not values.size else "different numbers"
        raise DataError(
            f"{stored.title}: shape {shape_text(stored.shape)} holds {what} for an input that is a single one, for "
            "all samples of a batch; store one, of shape []"
        )
    return values.reshape(-1)[:1].reshape(())


def _check_label_layout(
    labels: StoredArray, classes: int | None, label_kind: LabelKind, places: int
) -> None:
    if label_kind == "class":
        checks.check_classes(labels, classes, places)
    elif label_kind == "float" or labels.dtype.kind not in "biu":
        checks.check_targets(labels)


def _read_labels(
    stored: StoredArray,
    samples: int,
    classes: int | None,
    label_kind: LabelKind,
) -> NDArray[Any]:
    values = stored.read(samples)
    if label_kind == "class":
        checks.check_class_values(stored, values, classes)
        return values.astype(np.int64, copy=False)
    if label_kind == "any" and stored.dtype.kind in "biu":
        # A function of the user's own knows what they mean.
        return (
            values.astype(np.int64, copy=False) if np.can_cast(values.dtype, np.int64) else values
        )
    with np.errstate(over="ignore"):  # what overflows is refused
        targets = values.astype(np.float32, copy=False)
    checks.check_target_values(stored, targets)
    return targets
