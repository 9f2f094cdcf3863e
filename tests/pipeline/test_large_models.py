"""A model that one protobuf can't hold, with smaller limits: the same result, with its weights beside it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import Builder

import onnxadmm
from onnxadmm.graph import constants, load_model, model_digest, parts, save_model

SPEC = {
    "version": 1,
    "prune": [
        {"structure": "channel", "amount": 0.5},
        {"layers": "*", "structure": "unstructured", "amount": 0.2},
    ],
    "benchmark": {"providers": []},
}


def network() -> ir.Model:
    b = Builder(0, 2, 6)
    b.conv(16)
    b.batchnorm()
    b.activation("Relu")
    b.residual()
    b.conv(12)
    b.activation("Relu")
    b.head("flatten")
    return b.model()


@pytest.fixture
def small_limits(monkeypatch):
    """Let a few hundred bytes be what neither a protobuf nor the memory can hold twice."""
    monkeypatch.setattr(parts, "WHOLE_BYTES", 100)
    monkeypatch.setattr(parts, "STAGED_BYTES", 100)
    monkeypatch.setattr(parts, "PIECE_BYTES", 100)
    monkeypatch.setattr("onnxadmm.graph.external.PIECE_BYTES", 100)
    monkeypatch.setattr(constants, "LAZY_BYTES", 0)
    for module in ("external", "loading"):
        monkeypatch.setattr(f"onnxadmm.graph.{module}.MAPPED_BYTES", 100)


def beside(folder):
    return {p.name for p in folder.iterdir() if p.suffix == ".data"}


def test_the_result_is_that_of_a_small_model(tmp_path, monkeypatch, request):
    model = network()
    plain = onnxadmm.compress(model, SPEC)
    request.getfixturevalue("small_limits")
    save_model(model, tmp_path / "model.onnx")
    inputs = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    result = onnxadmm.compress(tmp_path / "model.onnx", SPEC, output=tmp_path / "out")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == inputs
    (name,) = beside(tmp_path / "out")
    stored = onnx.load(tmp_path / "out" / "model.onnx")
    assert {
        e.value
        for t in onnx.load(
            tmp_path / "out" / "model.onnx", load_external_data=False
        ).graph.initializer
        for e in t.external_data
        if e.key == "location"
    } == {name}
    for tensor in stored.graph.initializer:
        held = plain.model.graph.initializers[tensor.name].const_value
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), held.numpy())
    assert result.report.compressed.file_bytes == sum(
        (tmp_path / "out" / n).stat().st_size for n in (name, "model.onnx")
    )
    assert result.report.compressed.parameters == plain.report.compressed.parameters
    loaded = load_model(tmp_path / "out" / "model.onnx")
    monkeypatch.undo()
    assert model_digest(loaded) == model_digest(plain.model)


@pytest.mark.usefixtures("small_limits")
def test_another_result_in_the_folder_takes_the_old_ones_weights_away(tmp_path):
    onnxadmm.compress(network(), SPEC, output=tmp_path)
    (first,) = beside(tmp_path)
    onnxadmm.compress(
        network(), SPEC, output=tmp_path, overrides=["prune=[{structure: channel, amount: 0.3}]"]
    )
    (second,) = beside(tmp_path)
    assert first != second


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("damaged", ["model.onnx", "data"])
def test_a_finished_run_is_known_by_all_of_its_files(tmp_path, damaged):
    onnxadmm.compress(network(), SPEC, output=tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    onnxadmm.compress(network(), SPEC, output=tmp_path, resume=True)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before
    path = tmp_path / (damaged if damaged != "data" else beside(tmp_path).pop())
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    onnxadmm.compress(network(), SPEC, output=tmp_path, resume=True)
    assert path.read_bytes() == whole
