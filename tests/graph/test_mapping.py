"""Large tensors that graph and module share until one of them is written."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onnxadmm.graph import (
    constant_of,
    load_model,
    model_digest,
    model_size,
    probe,
    save_model,
    stage_model,
)
from onnxadmm.graph.mapping import MAPPED_BYTES, Source, Store, is_mapped
from onnxadmm.modules import import_model, write_back

KINDS = [ir.DataType.FLOAT, ir.DataType.BFLOAT16, ir.DataType.INT8, ir.DataType.DOUBLE]


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 3000)), max_size=4))
def test_tensors_come_back_and_arrays_are_their_readers_own(wanted):
    store, rng = Store(), np.random.default_rng(0)
    arrays = [rng.integers(-9, 9, n).astype(kind.numpy()) for kind, n in wanted]
    held = [store.add(k, a.shape, a) for (k, _), a in zip(wanted, arrays, strict=True)]
    first = [h.array() for h in held]
    for got, expected in zip(first, arrays, strict=True):
        np.testing.assert_array_equal(got, expected)
        got[...] = 0
    for tensor, expected in zip(held, arrays, strict=True):
        np.testing.assert_array_equal(tensor.array(), expected)


def test_a_source_that_ends_early_is_said(tmp_path):
    (tmp_path / "data").write_bytes(bytes(100))
    with (tmp_path / "data").open("rb") as file, pytest.raises(EOFError):
        Store().add(ir.DataType.FLOAT, [26], Source(file.fileno(), 0, 104))


def test_as_many_arrays_as_there_are_tensors_take_no_descriptors():
    store = Store()
    held = [store.add(ir.DataType.FLOAT, [2], np.float32([n, n])) for n in range(50)]
    # Models of earlier tests may wait for the collector with their files.
    gc.collect()
    before = psutil.Process().num_fds()
    arrays = [h.array() for h in held for _ in range(20)]
    del store, held
    assert psutil.Process().num_fds() < before
    assert arrays[-1].tolist() == [49, 49]


@pytest.fixture
def large(tmp_path):
    """A model whose weights lie beside it: 96 MiB in three layers."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4096] x) => (float[N, 2048] y) { a = MatMul(x, p) b = Relu(a) c = MatMul(b, q) y = MatMul(c, r) }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    rng = np.random.default_rng(0)
    for name, shape in {"p": (4096, 2048), "q": (2048, 4096), "r": (4096, 2048)}.items():
        content = ir.tensor(rng.standard_normal(shape, dtype=np.float32), name=name)
        next(v for n in model.graph for v in n.inputs if v.name == name).const_value = content
    for value in {v for n in model.graph for v in n.inputs if v.const_value is not None}:
        value.shape, value.dtype = value.const_value.shape, ir.DataType.FLOAT
        model.graph.register_initializer(value)
    ir.save(model, tmp_path / "large.onnx", external_data="large.data")
    return tmp_path / "large.onnx"


def test_graph_and_module_share_the_weights_until_a_step(large, tmp_path):
    size = 96 << 20
    process = psutil.Process()
    before = process.memory_info().rss
    model = load_model(large)
    imported = import_model(model, probe(model))
    with torch.no_grad():
        assert torch.isfinite(imported.module(torch.ones(1, 4096))[0]).all()
    write_back(model, imported.state)
    assert process.memory_info().rss - before < 1.5 * size
    held = model.graph.initializers
    assert all(is_mapped(v) for v in held.values())
    first = {n: constant_of(v).copy() for n, v in held.items()}
    with torch.no_grad():
        imported.binding["p"].mul_(2)
    np.testing.assert_array_equal(constant_of(held["p"]), first["p"])
    write_back(model, imported.state)
    np.testing.assert_array_equal(constant_of(held["p"]), 2 * first["p"])
    assert not is_mapped(held["p"])
    assert is_mapped(held["q"])
    save_model(model, tmp_path / "again.onnx")
    again = load_model(tmp_path / "again.onnx")
    np.testing.assert_array_equal(constant_of(again.graph.initializers["r"]), first["r"])
    assert constant_of(held["q"]).nbytes > MAPPED_BYTES


def test_what_was_trained_moves_into_the_graph_without_a_copy(large):
    model = load_model(large)
    imported = import_model(model, probe(model))
    first = {n: constant_of(v)[:2].copy() for n, v in model.graph.initializers.items()}
    with torch.no_grad():
        for weight in imported.binding.values():
            weight.mul_(2)
    process = psutil.Process()
    before = process.memory_info().rss
    write_back(model, imported.state, move=True)
    assert process.memory_info().rss - before < 16 << 20
    assert not any(w.numel() for w in imported.binding.values())
    for name, value in model.graph.initializers.items():
        np.testing.assert_array_equal(constant_of(value)[:2], 2 * first[name])


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda m, to: save_model(m, to / "again.onnx"), id="saved"),
        pytest.param(stage_model, id="staged"),
        pytest.param(lambda m, to: stage_model(m, to, mapped=True), id="staged to be mapped"),
        pytest.param(lambda m, _: (model_size(m), model_digest(m)), id="measured"),
    ],
)
def test_a_model_is_written_a_tensor_at_a_time(large, tmp_path, write):
    model = load_model(large)
    (tmp_path / "to").mkdir()
    write(ir.from_proto(onnx.parser.parse_model(SMALL)), tmp_path / "to")
    before = psutil.Process().memory_info().rss
    # From here on the kernel counts the peak anew (man 5 proc_pid_clear_refs).
    Path("/proc/self/clear_refs").write_text("5")
    write(model, tmp_path / "to")
    (peak,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    # The largest of its three tensors has 32 MiB.
    assert (int(peak) << 10) - before < 48 << 20


SMALL = '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Relu(x) }'
