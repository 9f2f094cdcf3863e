"""An imported module is a torch module like any other: what torch's tools do with one, they do with it."""

from __future__ import annotations

import copy
import pickle  # noqa: TID251  (what users do with a module of theirs)

import pytest
import torch
import torch.distributed as dist
from graphs import Builder
from torch.nn.parallel import DistributedDataParallel

from onnxadmm.graph import probe
from onnxadmm.modules import import_model


@pytest.fixture(scope="module")
def module():
    b = Builder(1, 2, 6)
    b.conv(4)
    b.batchnorm()
    b.activation("PRelu")
    b.residual()
    b.shuffle()
    b.gate()
    b.head("computed")
    model = b.model()
    return import_model(model, probe(model)).module


def samples(rows=3):
    return torch.randn(rows, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def test_it_pickles(module):
    again = pickle.loads(pickle.dumps(module))
    assert torch.equal(again(samples())[0], module(samples())[0])
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in module.named_parameters()]


def test_it_moves_to_another_device_with_all_its_tensors(module):
    moved = copy.deepcopy(module).to("meta")
    assert {t.device.type for t in (*moved.parameters(), *moved.buffers())} == {"meta"}
    output = moved(samples().to("meta"))[0]
    assert (output.device.type, output.shape) == ("meta", module(samples())[0].shape)


@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_export_takes_it(module, dynamic):
    shapes = ({0: torch.export.Dim("n")},) if dynamic else None
    exported = torch.export.export(module, (samples(),), dynamic_shapes=shapes).module()
    x = samples(5 if dynamic else 3)
    torch.testing.assert_close(exported(x)[0], module(x)[0])


def test_torch_compile_takes_it_whole_and_gives_the_same_gradients(module):
    twin = copy.deepcopy(module)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    plain = copy.deepcopy(module)
    for each in (compiled, plain):
        each(samples())[0].square().sum().backward()
    for got, expected in zip(twin.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad)


def test_it_trains_under_distributed_data_parallel(module, tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        twin = copy.deepcopy(module)
        before = [p.detach().clone() for p in twin.parameters()]
        wrapped = DistributedDataParallel(twin)
        wrapped(samples())[0].square().sum().backward()
        torch.optim.SGD(wrapped.parameters(), lr=0.1).step()
        assert not any(torch.equal(a, b) for a, b in zip(before, twin.parameters(), strict=True))
    finally:
        dist.destroy_process_group()
