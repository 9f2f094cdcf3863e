"""The output folder: what a killed run leaves goes, what somebody else put there stays."""

from __future__ import annotations

import pytest
from stopping import StopAfter

import onnxadmm
from onnxadmm.errors import Interrupted, ResourceError, SpecError
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


SHORT = ["benchmark={providers: []}", "schedule={epochs: 1, retrain: 1}"]


def checkpoints(folder):
    return {p: p.read_bytes() for p in (folder / "checkpoints").rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("further", "whose", "way"),
    [
        ([], "this very run", "--resume goes on"),
        (["seed=1"], "a run whose spec was another", "choose another folder"),
    ],
)
def test_a_run_that_was_not_finished_is_not_started_over(workplace, tmp_path, further, whose, way):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    with pytest.raises(Interrupted):
        onnxadmm.compress(*arguments, output=tmp_path, overrides=SHORT, stop=StopAfter(3))
    before = checkpoints(tmp_path)
    assert before
    with pytest.raises(SpecError) as caught:
        onnxadmm.compress(*arguments, output=tmp_path, overrides=[*SHORT, *further])
    for words in (whose, "admm step 3", way, "--restart"):
        assert words in str(caught.value)
    assert checkpoints(tmp_path) == before
    onnxadmm.compress(*arguments, output=tmp_path, overrides=[*SHORT, *further], restart=True)
    assert not any(p in before for p in checkpoints(tmp_path))


def test_a_run_without_training_does_not_drop_checkpoints_either(workplace, tmp_path):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    with pytest.raises(Interrupted):
        onnxadmm.compress(*arguments, output=tmp_path, overrides=SHORT, stop=StopAfter(3))
    before = checkpoints(tmp_path)
    shot = {"version": 1, "prune": [{"structure": "channel", "amount": 0.5}]}
    with pytest.raises(SpecError, match="was not finished"):
        onnxadmm.compress(workplace / "model.onnx", shot, output=tmp_path)
    assert checkpoints(tmp_path) == before


def test_what_a_finished_run_left_is_no_work_to_lose(workplace, tmp_path):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    onnxadmm.compress(*arguments, output=tmp_path, overrides=SHORT)
    onnxadmm.compress(*arguments, output=tmp_path, overrides=[*SHORT, "seed=1"])
    (tmp_path / "model.onnx").write_bytes(b"damaged")
    # Now its checkpoints are the short way back to it.
    with pytest.raises(SpecError, match="this very run"):
        onnxadmm.compress(*arguments, output=tmp_path, overrides=[*SHORT, "seed=1"])


def test_a_run_in_the_folder_of_an_earlier_one_can_be_resumed(workplace, tmp_path):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    given = list(SHORT)
    onnxadmm.compress(*arguments, output=tmp_path, overrides=given)
    given.append("seed=1")
    with pytest.raises(Interrupted):
        onnxadmm.compress(*arguments, output=tmp_path, overrides=given, stop=StopAfter(3))
    resumed = onnxadmm.compress(*arguments, output=tmp_path, overrides=given, resume=True)
    assert resumed.report.seed == 1
