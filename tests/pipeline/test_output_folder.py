"""The output folder: what a killed run leaves goes, what somebody else put there stays."""

from __future__ import annotations

import pytest

from onnxadmm.errors import ResourceError
from onnxadmm.pipeline.output import locked


def test_half_written_files_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / "checkpoints" / "admm").mkdir(parents=True)
    half = [tmp_path / ".onnxadmm-1", tmp_path / "checkpoints" / "admm" / ".onnxadmm-2"]
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
