"""`pack: auto`: the written file is small, ONNX Runtime computes the same, onnxadmm reads it again."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx.parser
import pytest
from graphs import Builder

import onnxadmm
from onnxadmm.bench import open_session
from onnxadmm.graph import model_size


def two_layers(path, opset=17):
    # Wide enough that every hidden unit keeps weights: units without any are removed.
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N,512] x) => (float[N,400] y) {{'
        "a = MatMul(x, first) b = Relu(a) y = MatMul(b, second) }"
    )
    for name, shape in (("first", (512, 300)), ("second", (300, 400))):
        weight = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    path.write_bytes(model.SerializeToString())
    return path


def spec(pack, amount=0.97):
    prune = [{"structure": "unstructured", "amount": amount}] if amount else []
    return {"version": 1, "prune": prune, "pack": pack, "benchmark": {"providers": []}}


def test_a_packed_result_is_smaller_and_computes_the_same(tmp_path):
    model = two_layers(tmp_path / "model.onnx")
    plain = onnxadmm.compress(model, spec("none"), output=tmp_path / "plain")
    packed = onnxadmm.compress(model, spec("auto"), output=tmp_path / "packed")
    sizes = [(tmp_path / n / "model.onnx").stat().st_size for n in ("plain", "packed")]
    assert sizes[1] < sizes[0] / 15
    assert packed.report.compressed.file_bytes == sizes[1]
    assert packed.report.compressed.nonzero_parameters == plain.report.compressed.nonzero_parameters
    assert {p.tensor for p in packed.report.packing} == {"first", "second"}
    x = np.random.default_rng(1).standard_normal((5, 512)).astype(np.float32)
    got = [
        open_session(tmp_path / n / "model.onnx").run(None, {"x": x})[0]
        for n in ("plain", "packed")
    ]
    assert np.array_equal(*got)
    for name in ("report.md", "report.html"):
        said = (tmp_path / "packed" / name).read_text()
        assert re.search(r"Packed: 2\stensors", said)


def test_a_packed_model_can_be_inspected_and_compressed_again(tmp_path):
    model = two_layers(tmp_path / "model.onnx")
    onnxadmm.compress(model, spec("auto"), output=tmp_path / "packed")
    found = onnxadmm.inspect(tmp_path / "packed" / "model.onnx")
    assert found.account.nonzero_parameters == round(0.03 * 512 * 300) + round(0.03 * 300 * 400)
    again = onnxadmm.compress(tmp_path / "packed" / "model.onnx", spec("auto", amount=0))
    assert again.report.ratios.file_bytes == pytest.approx(1.0, rel=0.01)


def test_nothing_to_gain_leaves_the_model_as_it_was(tmp_path):
    model = two_layers(tmp_path / "model.onnx")
    result = onnxadmm.compress(model, spec("auto", amount=0))
    assert not result.report.packing
    assert result.model is result.pruned


def test_an_opset_that_is_too_old_is_said(tmp_path):
    result = onnxadmm.compress(two_layers(tmp_path / "model.onnx", opset=11), spec("auto"))
    assert not result.report.packing
    assert any(w.startswith("pack: needs opset 12") for w in result.report.warnings)


def test_exporters_notes_go_and_others_stay():
    """Stack traces and module paths are of no use to whom the file is sent to."""
    b = Builder(0, 2, 6)
    b.conv(6)
    b.head("flatten")
    model = b.model()
    model.metadata_props["author"] = "somebody"
    for node in model.graph:
        node.metadata_props["pkg.torch.onnx.stack_trace"] = (
            'File "model.py", line 7, in forward' * 20
        )
        node.metadata_props["mine"] = "kept"
        node.doc_string = 'model.py(7): forward\nFile "model.py", line 7'
    before = model_size(model)
    plain = onnxadmm.compress(model, spec("none", amount=0.1)).model
    packed = onnxadmm.compress(model, spec("auto", amount=0.1)).model
    assert before - model_size(packed) > 4000 > before - model_size(plain)
    assert packed.metadata_props["author"] == "somebody"
    for node in packed.graph:
        assert node.metadata_props == {"mine": "kept"}
        assert not node.doc_string
    assert all("pkg.torch.onnx.stack_trace" in n.metadata_props for n in plain.graph)
