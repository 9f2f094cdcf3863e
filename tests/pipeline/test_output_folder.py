"""The output folder: what a killed run leaves goes, what somebody else put there stays."""

from __future__ import annotations

import pytest
from stopping import StopAfter

import onnxadmm
from onnxadmm.errors import Interrupted, ResourceError
from onnxadmm.pipeline.output import locked


def test_half_written_files_of_a_killed_run_are_removed(tmp_path):
    half = [tmp_path / ".onnxadmm-1", tmp_path / "checkpoints" / ".onnxadmm-2"]
    for stage in ("admm", "retrain", "levels"):
        (tmp_path / "checkpoints" / stage).mkdir(parents=True)
        half.append(tmp_path / "checkpoints" / stage / ".onnxadmm-3")
    mine = [tmp_path / ".notes", tmp_path / "checkpoints" / "00000001.json"]
    for path in (*half, *mine):
        path.write_text("x")
    with locked(tmp_path):
        assert not any(p.exists() for p in half)
    assert all(p.exists() for p in mine)


def test_a_second_run_in_one_folder_names_the_first_and_sweeps_nothing(tmp_path):
    import os

    with locked(tmp_path):
        (tmp_path / ".onnxadmm-1").write_text("being written")
        with pytest.raises(ResourceError, match=f"process {os.getpid()}"), locked(tmp_path):
            pass
        assert (tmp_path / ".onnxadmm-1").exists()


def test_a_run_in_the_folder_of_an_earlier_one_can_be_resumed(workplace, tmp_path):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    given = ["benchmark={providers: []}", "schedule={epochs: 1, retrain: 1}"]
    onnxadmm.compress(*arguments, output=tmp_path, overrides=given)
    given.append("seed=1")
    with pytest.raises(Interrupted):
        onnxadmm.compress(*arguments, output=tmp_path, overrides=given, stop=StopAfter(3))
    resumed = onnxadmm.compress(*arguments, output=tmp_path, overrides=given, resume=True)
    assert resumed.report.seed == 1
