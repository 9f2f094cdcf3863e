"""Tensors on the disk: what safetensors reads is what was there, and a copy put aside follows no change."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load

from onnxadmm.errors import ResourceError
from onnxadmm.training.tensor_files import Prefixed, TensorFile, put_on_disk

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


def test_what_is_written_into_a_tensor_put_aside_stays_with_its_holder(tmp_path):
    aside = put_on_disk(TENSORS, tmp_path)
    for name, tensor in TENSORS.items():
        got = aside[name]
        assert got.dtype == tensor.dtype
        assert torch.equal(got, tensor)
        got.zero_()
        assert torch.equal(aside[name], tensor)


def test_tensors_put_aside_are_written_again_under_longer_names(tmp_path):
    longer = Prefixed("good.", put_on_disk(TENSORS, tmp_path))
    assert "mask" not in longer
    read = load(b"".join(bytes(p) for p in TensorFile(longer)))
    assert {n: t.tolist() for n, t in read.items()} == {
        f"good.{n}": t.tolist() for n, t in TENSORS.items()
    }


def test_more_is_put_aside_and_taken_back_than_there_are_addresses_for(tmp_path):
    """A limit of memory counts what is mapped, though a file's pages take none."""
    script = """
import resource, torch
from onnxadmm.training.tensor_files import Prefixed, TensorFile, put_on_disk
weights = {str(n): torch.full((1 << 22,), float(n)) for n in range(8)}  # 16 MiB each
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (96 << 20), resource.RLIM_INFINITY))
aside = put_on_disk(weights, None)
for name, weight in weights.items():
    weight.zero_()
    weight.copy_(aside[name])
assert sum(len(p) for p in TensorFile(aside)) > 128 << 20
assert [w[-1].item() for w in weights.values()] == list(range(8))
"""
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )


@pytest.mark.parametrize("reason", [errno.EIO, None])
def test_a_disk_that_fails_is_no_bug_of_ours(monkeypatch, tmp_path, reason):
    def refuse(*_, **__):
        if reason is None:
            return 0
        raise OSError(reason, os.strerror(reason))

    aside = put_on_disk({"w": torch.ones(2)}, tmp_path)
    monkeypatch.setattr(os, "preadv", refuse)
    words = "has become shorter" if reason is None else "Input/output error"
    with pytest.raises(ResourceError, match=f"{words}; free memory"):
        aside["w"]


def test_tensors_put_aside_take_one_descriptor_and_give_it_back(tmp_path):
    def taken():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = taken()
    aside = put_on_disk({str(n): torch.ones(3) for n in range(50)}, tmp_path)
    held = dict(aside)
    assert taken() == before + 1
    del aside
    assert taken() == before
    assert all(t.tolist() == [1, 1, 1] for t in held.values())
