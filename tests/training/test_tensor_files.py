"""Tensors on the disk: what safetensors reads is what was there, and a copy put aside follows no change."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load

from onnxadmm.errors import ResourceError
from onnxadmm.training.tensor_files import TensorFile, put_on_disk

TENSORS = {
    "mask": torch.tensor([True, False, True]),
    "innermost": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "half": torch.randn(3).half(),
    "brain": torch.randn(5).bfloat16(),
    "double": torch.randn(2, 2).double(),
    "step": torch.tensor(7),
    "none": torch.zeros(0, 3),
    "turned": torch.randn(4, 6).T,
}


def test_safetensors_reads_every_type_and_layout():
    read = load(b"".join(bytes(p) for p in TensorFile(TENSORS)))
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


@pytest.mark.parametrize("there", [True, False])
def test_a_copy_put_aside_follows_no_change_and_leaves_no_file(there, tmp_path):
    weight = torch.arange(10.0)
    aside = put_on_disk({"w": weight}, tmp_path / "new" if there else None)
    weight.zero_()
    assert aside["w"].tolist() == list(range(10))
    assert not list(tmp_path.rglob("*.*"))


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="the state that a run goes back to"):
        put_on_disk({"w": torch.ones(2)}, tmp_path / "file")


def test_a_file_that_cannot_be_mapped_is_no_bug_of_ours(monkeypatch, tmp_path):
    def refuse(_):
        raise RuntimeError("unable to mmap 11811176192 bytes from file: Cannot allocate memory")

    monkeypatch.setattr("safetensors.torch.load_file", refuse)
    with pytest.raises(ResourceError, match="Cannot allocate memory; free memory"):
        put_on_disk({"w": torch.ones(2)}, tmp_path)
