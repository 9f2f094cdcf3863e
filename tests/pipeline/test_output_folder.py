"""The output folder: what a killed run leaves goes, what somebody else put there stays."""

from __future__ import annotations

import pytest
from stopping import StopAfter

import onnxadmm
from onnxadmm.errors import Interrupted, ResourceError, SpecError
from onnxadmm.graph import model_bytes
from onnxadmm.pipeline.output import locked
from onnxadmm.progress import Silent


class Said(Silent):
    """Keeps what a run notes."""

    def __init__(self):
        super().__init__()
        self.notes = []

    def note(self, text):
        self.notes.append(text)


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


def test_a_run_that_was_not_finished_goes_on_without_being_asked(workplace, tmp_path):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    whole = onnxadmm.compress(*arguments, output=tmp_path / "whole", overrides=SHORT)
    with pytest.raises(Interrupted):
        onnxadmm.compress(*arguments, output=tmp_path / "a", overrides=SHORT, stop=StopAfter(3))
    said = Said()
    again = onnxadmm.compress(*arguments, output=tmp_path / "a", overrides=SHORT, progress=said)
    assert "resumed after step 3" in said.notes
    assert model_bytes(again.model) == model_bytes(whole.model)


def test_restarted_it_begins_anew(workplace, tmp_path):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    with pytest.raises(Interrupted):
        onnxadmm.compress(*arguments, output=tmp_path, overrides=SHORT, stop=StopAfter(3))
    said = Said()
    onnxadmm.compress(*arguments, output=tmp_path, overrides=SHORT, progress=said, restart=True)
    assert not any(n.startswith("resumed") for n in said.notes)


def test_another_run_is_not_started_over_one_that_was_not_finished(workplace, tmp_path):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    other = [*SHORT, "seed=1"]
    with pytest.raises(Interrupted):
        onnxadmm.compress(*arguments, output=tmp_path, overrides=SHORT, stop=StopAfter(3))
    before = checkpoints(tmp_path)
    assert before
    with pytest.raises(SpecError) as caught:
        onnxadmm.compress(*arguments, output=tmp_path, overrides=other)
    for words in ("a run whose spec was another", "admm step 3", "another folder", "--restart"):
        assert words in str(caught.value)
    assert checkpoints(tmp_path) == before
    onnxadmm.compress(*arguments, output=tmp_path, overrides=other, restart=True)
    assert not any(p in before for p in checkpoints(tmp_path))


def test_a_run_without_training_does_not_drop_checkpoints_either(workplace, tmp_path):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    with pytest.raises(Interrupted):
        onnxadmm.compress(*arguments, output=tmp_path, overrides=SHORT, stop=StopAfter(3))
    before = checkpoints(tmp_path)
    shot = {"version": 1, "prune": [{"structure": "channel", "amount": 0.5}]}
    with pytest.raises(SpecError, match=r"not finished"):
        onnxadmm.compress(workplace / "model.onnx", shot, output=tmp_path)
    assert checkpoints(tmp_path) == before


def test_what_a_finished_run_left_is_no_work_to_lose(workplace, tmp_path):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    onnxadmm.compress(*arguments, output=tmp_path, overrides=SHORT)
    onnxadmm.compress(*arguments, output=tmp_path, overrides=[*SHORT, "seed=1"])
    (tmp_path / "model.onnx").write_bytes(b"damaged")
    # Now its checkpoints are the short way back to it.
    said = Said()
    onnxadmm.compress(*arguments, output=tmp_path, overrides=[*SHORT, "seed=1"], progress=said)
    assert any(n.startswith("resumed") for n in said.notes)


def test_a_run_in_the_folder_of_an_earlier_one_can_be_resumed(workplace, tmp_path):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    given = list(SHORT)
    onnxadmm.compress(*arguments, output=tmp_path, overrides=given)
    given.append("seed=1")
    with pytest.raises(Interrupted):
        onnxadmm.compress(*arguments, output=tmp_path, overrides=given, stop=StopAfter(3))
    resumed = onnxadmm.compress(*arguments, output=tmp_path, overrides=given, resume=True)
    assert resumed.report.seed == 1


def test_a_run_without_checkpoints_writes_none_and_comes_to_the_same(workplace, tmp_path):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    kept = onnxadmm.compress(*arguments, output=tmp_path / "kept", overrides=SHORT)
    folder = tmp_path / "none"
    without = onnxadmm.compress(*arguments, output=folder, overrides=SHORT, checkpoints=False)
    assert model_bytes(without.model) == model_bytes(kept.model)
    assert checkpoints(tmp_path / "kept")
    # It says that the run was finished, and of what.
    assert [p.name for p in checkpoints(folder)] == ["finished"]
    assert not [p for p in folder.rglob("*") if p.name.startswith(".onnxadmm-")]


def test_a_run_without_checkpoints_drops_none_unasked(workplace, tmp_path):
    arguments = (workplace / "model.onnx", workplace / "spec.yaml")
    with pytest.raises(Interrupted):
        onnxadmm.compress(*arguments, output=tmp_path, overrides=SHORT, stop=StopAfter(3))
    before = checkpoints(tmp_path)
    with pytest.raises(SpecError, match="leave --no-checkpoints out to go on"):
        onnxadmm.compress(*arguments, output=tmp_path, overrides=SHORT, checkpoints=False)
    assert checkpoints(tmp_path) == before
    onnxadmm.compress(*arguments, output=tmp_path, overrides=SHORT, checkpoints=False, restart=True)
    assert [p.name for p in checkpoints(tmp_path)] == ["finished"]
