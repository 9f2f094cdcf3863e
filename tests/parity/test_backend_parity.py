"""No model of the standard's own tests is imported wrongly, and no fewer are right than were recorded."""

from __future__ import annotations

import json
from collections import Counter

import backend_models as backend
import numpy as np
import onnx
import pytest
import record
import torch

RECORDED = json.loads(record.RESULTS.read_text(encoding="utf-8"))
GOOD = (backend.RIGHT, backend.FROZEN, backend.RUNTIME)


# The large networks of `light` take minutes: `record.py` runs them.
@pytest.mark.parametrize("suite", [s for s in backend.SUITES if s != "light"])
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_wrong_and_nothing_got_lost(suite):
    verdicts = [backend.judge(case) for case in backend.cases(suite)]
    assert [v for v in verdicts if v.verdict == backend.WRONG] == []
    counts = Counter(v.verdict for v in verdicts)
    if onnx.__version__ == RECORDED["onnx"]:
        recorded = RECORDED["counts"][suite]
        assert counts[backend.RIGHT] >= recorded[backend.RIGHT]
        assert sum(counts[k] for k in GOOD) >= sum(recorded.get(k, 0) for k in GOOD)


def test_the_table_is_that_of_the_results():
    assert record.table(RECORDED) == record.TABLE.read_text(encoding="utf-8")
    assert all(backend.WRONG not in counts for counts in RECORDED["counts"].values())


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (np.float32([1, 2]), torch.tensor([1.0, 2.01])),
        (np.float32([1, 2]), torch.tensor([1, 2])),
        (np.float32([1, 2]), torch.tensor([[1.0, 2.0]])),
        (np.int64([1, 2]), torch.tensor([1, 3])),
        ([np.float32(1)], [torch.tensor(1.0), torch.tensor(2.0)]),
        (np.float32([np.nan]), torch.tensor([0.0])),
    ],
)
def test_the_judge_sees_a_difference(expected, got):
    assert backend.difference(expected, got, 1e-3, 1e-7)
    assert not backend.difference(expected, expected, 1e-3, 1e-7)
