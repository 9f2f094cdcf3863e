"""A run of two processes: both train, one writes, and the result is that of one process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import onnxadmm
from onnxadmm.pipeline import processes

OVERRIDES = ["benchmark.providers=[]", "schedule.epochs=1", "schedule.retrain=1", "quantize=[]"]


def test_two_processes_train_what_one_does(workplace, tmp_path):
    alone = onnxadmm.compress(
        workplace / "model.onnx", workplace / "spec.yaml", overrides=OVERRIDES
    )
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*started, "--nproc_per_node=2", "-m", "onnxadmm_cli", "compress"]
    given = [str(workplace / "model.onnx"), "--spec", str(workplace / "spec.yaml"), "-o", "out"]
    done = subprocess.run(
        [*command, *given, *[f"--set={o}" for o in OVERRIDES]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("wrote out") == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["history"]) == len(alone.report.history) == 2
    for together, one in zip(report["history"], alone.report.history, strict=True):
        assert together["loss"] == pytest.approx(one.loss, rel=1e-3)
        if one.primal is not None:
            assert together["primal"] == pytest.approx(one.primal, rel=1e-2)
    assert report["compressed"]["metrics"] == pytest.approx(
        dict(alone.report.compressed.metrics), abs=0.02
    )


@pytest.mark.parametrize(
    ("rank", "world", "worker"),
    [("0", "2", False), ("1", "2", True), ("1", "1", False), ("x", "y", False)],
)
def test_a_worker_is_told_by_its_rank_and_leaves_once_training_is_over(
    rank, world, worker, monkeypatch
):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    assert processes.is_worker() is worker
    if worker:
        with pytest.raises(SystemExit) as left:
            processes.leave_the_rest_to_main()
        assert left.value.code == 0
    else:
        processes.leave_the_rest_to_main()
