"""Samples in memory as they were stored, handed out batch by batch as the model takes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxadmm.data.preparing import Preparation, is_float


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no one answer to ==
class Dataset:
    """Checked samples; a batch costs one gather and one pass of preprocessing.

    `inputs` maps a model input to its array [N, ...] as stored (uint8 images stay uint8), or [] where it is a
    single number for all samples, `labels` is
    [N] int64 classes or [N, ...] float32 targets, `files` says which file each came from (base
    names, for messages), `preparations` what `batch` does to an input; one without is handed out as
    it is.
    """

    inputs: dict[str, NDArray[Any]]
    labels: NDArray[Any] | None
    files: dict[str, str]
    preparations: Mapping[str, Preparation] = field(default_factory=dict)

    def __len__(self) -> int:
        return next(len(array) for array in self.inputs.values() if array.ndim)

    def batch(
        self, index: NDArray[np.integer[Any]] | slice
    ) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
        """Return some samples, preprocessed, in the model's dtypes and shapes.

        Args:
            index: Which ones: integers [B], or a slice.

        Returns:
            Model input -> [B, ...] (or []), and the labels [B, ...] or None. The arrays are the caller's own.
        """
        shared = isinstance(index, slice)
        batch: dict[str, NDArray[Any]] = {}
        for name, stored in self.inputs.items():
            prepare = self.preparations.get(name)
            if not stored.ndim:
                batch[name] = (
                    stored.copy() if prepare is None else prepare(stored.reshape(1)).reshape(())
                )
                continue
            taken = stored[index]
            if prepare is not None:
                batch[name] = prepare(taken, copy=shared)
            else:
                batch[name] = taken.copy() if shared else taken
        if self.labels is None:
            return batch, None
        labels = self.labels[index]
        return batch, labels.copy() if shared else labels

    def in_float32(self) -> Dataset:
        """Return the same samples for a model that takes float32 where this one's takes another float type."""
        wide = {
            name: replace(p, dtype=np.dtype(np.float32)) if is_float(p.dtype) else p
            for name, p in self.preparations.items()
        }
        return replace(self, preparations=wide)


def fingerprint(dataset: Dataset) -> str:
    """Return the SHA-256 of the stored samples and labels, 64 hexadecimal digits.

    The same values give the same digits whichever format, byte order or file they came from.
    Preprocessing is not part of it: that belongs to the spec.
    """
    digest = hashlib.sha256()
    arrays: list[tuple[str, str, NDArray[Any]]] = [
        ("input", name, dataset.inputs[name]) for name in sorted(dataset.inputs)
    ]
    if dataset.labels is not None:
        arrays.append(("labels", "", dataset.labels))
    for role, name, array in arrays:
        # JSON separates the fields: no two different data sets write the same bytes
        layout = json.dumps([role, name, array.dtype.name, list(array.shape)])
        digest.update(layout.encode() + b"\n")
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
