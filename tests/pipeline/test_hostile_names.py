"""Names and texts in a model that are paths, or very long: they stay text, and nothing is written outside."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from graphs import Builder

import onnxadmm

NAMES = ("../../outside", "/tmp/absolute", "..", "a/b/../../../c", "C:\\x", "~/x", "sub/w")


def network() -> onnx.ModelProto:
    b = Builder(0, 2, 4)
    b.conv(8)
    b.activation("Relu")
    b.conv(6)
    b.activation("Relu")
    b.head("flatten")
    proto: onnx.ModelProto = ir.to_proto(b.model())
    return proto


def test_names_that_are_paths_write_nothing_outside_the_output(tmp_path):
    proto = network()
    renamed = dict(zip((t.name for t in proto.graph.initializer), NAMES, strict=False))
    for tensor in proto.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for number, node in enumerate(proto.graph.node):
        node.name = f"../node{number}"
        node.input[:] = [renamed.get(n, n) for n in node.input]
    folder = tmp_path / "deep" / "deeper"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 2, 4, 4)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=rng.integers(0, 2, 16))
    files = {"inputs": {"x": str(folder / "data.npz")}, "labels": str(folder / "data.npz")}
    spec = {
        "version": 1,
        "data": {"train": files, "batch_size": 8},
        "prune": [{"structure": "channel", "amount": 0.5}],
        "schedule": {"epochs": 1, "retrain": 1},
        "benchmark": {"providers": []},
    }
    result = onnxadmm.compress(proto, spec, output=folder / "out")
    assert set(renamed.values()) & set(result.model.graph.initializers)
    written = {p for p in tmp_path.rglob("*") if p.is_file()} - {folder / "data.npz"}
    assert written
    assert all(p.is_relative_to(folder / "out") for p in written)


def test_a_document_string_of_64_megabytes_is_carried_along(tmp_path):
    proto = network()
    proto.doc_string = "x" * (64 << 20)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    spec = {
        "version": 1,
        "prune": [{"structure": "channel", "amount": 0.5}],
        "benchmark": {"providers": []},
    }
    result = onnxadmm.compress(path, spec)
    assert result.model.doc_string == proto.doc_string
    assert max(len(str(f)) for n, f in result.files.items() if n.endswith(("json", "html"))) < 1e7
