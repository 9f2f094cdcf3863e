"""Loading a split whose files a test has just written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from onnxadmm.data import Dataset, InputInfo, load_split
from onnxadmm.spec import Data, Preprocess, Split

IMAGE = InputInfo("x", np.dtype(np.float32), ("N", 3, 4, 4))
Load = Callable[..., Dataset]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def run(
        files: dict[str, str] | str = "data.npz",
        labels: str | None = "data.npz",
        *,
        inputs: Iterable[InputInfo] = (IMAGE,),
        steps: Iterable[Preprocess] = (),
        classes: int | None = 10,
        kind: str = "class",
        limit: int | None = None,
    ) -> Dataset:
        split = Split(
            inputs={"x": files} if isinstance(files, str) else files, labels=labels, limit=limit
        )
        data = Data(train=split, preprocess=tuple(steps))
        return load_split(
            split, data, folder=tmp_path, inputs=list(inputs), classes=classes, label_kind=kind
        )

    return run


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(12, 3, 4, 4)).astype(np.float32)


@pytest.fixture
def classes() -> np.ndarray:
    return np.arange(12) % 10
