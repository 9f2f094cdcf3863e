"""A file is absent, the old one or the new one."""

import os

import onnx_ir as ir
import pytest
from small_graphs import cnn, mlp

from onnxadmm.errors import ResourceError
from onnxadmm.graph import load_model, model_bytes, save_model, write_atomic


def test_a_saved_model_loads_and_bytes_repeat(tmp_path):
    loaded = ir.from_proto(cnn())
    save_model(loaded, tmp_path / "m.onnx")
    again = load_model(tmp_path / "m.onnx")
    assert model_bytes(again) == model_bytes(loaded) == (tmp_path / "m.onnx").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_text_is_utf8_and_replaces_what_was_there(tmp_path):
    write_atomic(tmp_path / "r.txt", "old")
    write_atomic(tmp_path / "r.txt", "ρ = 1")
    assert (tmp_path / "r.txt").read_text(encoding="utf-8") == "ρ = 1"


def test_the_umask_decides_on_rights(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "r.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "r.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["nosuch/m.onnx", "folder", "x" * 300, "nul\0"])
def test_a_refusing_disk_is_one_line_and_leaves_nothing(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResourceError) as caught:
        save_model(ir.from_proto(mlp()), tmp_path / name)
    assert str(caught.value).startswith("writing ")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    write_atomic(tmp_path / "r.txt", "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        write_atomic(tmp_path / "r.txt", "new")
    assert (tmp_path / "r.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
