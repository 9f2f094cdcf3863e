"""A node that no gradient can pass, between layers: what lies behind it learns, what lies before it stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

import onnxadmm
from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import probe
from onnxadmm.modules import compare_with_runtime, import_model, survey_model, write_back

RNG = np.random.default_rng(0)


def model(body, outputs="float[N, 4] y", held=("a", "b")):
    shapes = {"a": (3, 8), "b": (8, 4), "c": (8,)}
    text = f'<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 1]> g (float[N, 3] x) => ({outputs}) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    for name in held:
        content = RNG.standard_normal(shapes[name]).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(content, name))
    return ir.from_proto(proto)


BETWEEN = 'h = MatMul(x, a) n = ai.onnx.ml.Normalizer<norm = "L2">(h) y = MatMul(n, b)'


def test_what_lies_behind_it_learns():
    graph = model(BETWEEN)
    seen = probe(graph)
    imported = import_model(graph, seen)
    assert imported.untaught == ("a",)
    assert survey_model(graph, seen).untaught == ("a",)
    assert survey_model(graph, seen).refused == ()
    feed = {"x": RNG.standard_normal((5, 3)).astype(np.float32)}
    assert compare_with_runtime(graph, imported, feed).error < 1e-6
    imported.module(torch.from_numpy(feed["x"]))[0].square().sum().backward()
    assert imported.binding["a"].grad is None
    with torch.no_grad():
        imported.binding["b"] -= 0.1 * imported.binding["b"].grad
    write_back(graph, imported.weights())
    assert compare_with_runtime(graph, imported, feed).error < 1e-6


def test_another_way_to_an_output_is_a_way():
    body = f"{BETWEEN.split(' y =', maxsplit=1)[0]} r = MatMul(n, b) t = MatMul(h, b) y = Add(r, t)"
    graph = model(body)
    assert import_model(graph, probe(graph)).untaught == ()


@pytest.mark.parametrize(
    ("body", "held"),
    [
        # Nothing lies behind it.
        ('h = MatMul(x, a) y = ai.onnx.ml.Normalizer<norm = "L2">(h)', ("a",)),
        # It reads what learns.
        ('n = ai.onnx.ml.Normalizer<norm = "L2">(a) y = MatMul(x, n)', ("a",)),
    ],
)
def test_a_model_that_would_not_learn_is_refused(body, held):
    graph = model(body, "float[N, 8] y", held)
    seen = probe(graph)
    (refused,) = survey_model(graph, seen).refused
    assert "Normalizer" in refused
    with pytest.raises(UnsupportedError, match=r"Normalizer.*can't be trained"):
        import_model(graph, seen)


def spec(folder, **sections):
    x = RNG.standard_normal((64, 3)).astype(np.float32)
    np.savez(folder / "d.npz", x=x)
    return {
        "version": 1,
        "data": {"train": {"inputs": {"x": str(folder / "d.npz")}}, "batch_size": 16},
        "objective": {"loss": "distill"},
        "prune": [{"structure": "unstructured", "amount": 0.5}],
        "schedule": {"epochs": 2, "retrain": 1},
        "benchmark": {"providers": []},
    } | sections


def test_it_is_compressed_and_the_run_says_what_learnt_nothing(tmp_path):
    result = onnxadmm.compress(model(BETWEEN), spec(tmp_path))
    assert result.report.compressed.nonzero_parameters == pytest.approx(28, abs=2)
    assert any("training leaves 1 weights as they are" in w for w in result.report.warnings)
    assert any("training leaves 1 weights" in w for w in onnxadmm.inspect(model(BETWEEN)).warnings)


@pytest.mark.parametrize("output", ["i", "n"])
def test_an_output_that_teaches_nothing_is_refused_as_objective(output, tmp_path):
    body = f"{BETWEEN} i = ArgMax<axis = 1>(y)"
    graph = model(body, "float[N, 4] y, int64[N, 1] i, float[N, 8] n")
    with pytest.raises(UnsupportedError, match=f"output '{output}' can't be learnt from"):
        onnxadmm.compress(graph, spec(tmp_path, objective={"loss": "distill", "output": output}))
