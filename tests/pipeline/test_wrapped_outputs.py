"""A classifier as scikit-learn's converter writes it: a chosen class, and a map of probabilities a sample."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

import onnxadmm
from onnxadmm.errors import SpecError


def classifier():
    """Return two layers behind a Sigmoid, its complement beside it, and a ZipMap."""
    rng = np.random.default_rng(0)
    shapes = {"a": (6, 16), "b": (16, 1)}
    held = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
        for n, s in shapes.items()
    ]
    held.append(numpy_helper.from_array(np.float32([1]), "one"))
    nodes = [
        oh.make_node("MatMul", ["x", "a"], ["h"], name="first"),
        oh.make_node("Relu", ["h"], ["r"], name="relu"),
        oh.make_node("MatMul", ["r", "b"], ["z"], name="second"),
        oh.make_node("Sigmoid", ["z"], ["yes"], name="sigmoid"),
        oh.make_node("Sub", ["one", "yes"], ["no"], name="rest"),
        oh.make_node("Concat", ["no", "yes"], ["probabilities"], axis=1, name="both"),
        oh.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0, name="choose"),
        oh.make_node(
            "ZipMap",
            ["probabilities"],
            ["map"],
            domain="ai.onnx.ml",
            classlabels_strings=["n", "y"],
        ),
    ]
    of_text = oh.make_map_type_proto(TensorProto.STRING, oh.make_tensor_type_proto(1, []))
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [
            oh.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
            oh.make_value_info("map", oh.make_sequence_type_proto(of_text)),
        ],
        held,
    )
    opsets = [oh.make_opsetid("", 17), oh.make_opsetid("ai.onnx.ml", 2)]
    return oh.make_model(graph, opset_imports=opsets, ir_version=8)


def spec(folder, **sections):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((70, 6)).astype(np.float32)
    session = ort.InferenceSession(
        classifier().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.savez(folder / "d.npz", x=x, labels=session.run(["label"], {"x": x})[0])
    split = {
        "inputs": {"x": str(folder / "d.npz") + "#x"},
        "labels": str(folder / "d.npz") + "#labels",
    }
    return {
        "version": 1,
        "data": {"train": split, "evaluate": split, "batch_size": 16},
        "prune": [{"structure": "channel", "amount": 0.5, "round_to": 1}],
        "quantize": [{"layers": "*"}],
        "schedule": {"epochs": 1, "retrain": 1},
        "benchmark": {"rounds": 5},
    } | sections


@pytest.mark.parametrize("from_file", [True, False])
def test_it_is_trained_by_its_probabilities_and_written_with_its_maps(from_file, tmp_path):
    proto = classifier()
    onnx.save(proto, tmp_path / "in.onnx")
    given = tmp_path / "in.onnx" if from_file else proto
    result = onnxadmm.compress(given, spec(tmp_path), output=tmp_path / "out")
    assert result.report.original.metrics == {"accuracy": 1.0}
    assert result.report.compressed.metrics["accuracy"] > 0.7
    assert result.report.ratios.parameters == pytest.approx(2)
    assert any("map is a sequence or map: probabilities" in w for w in result.report.warnings)
    x = np.random.default_rng(2).standard_normal((5, 6)).astype(np.float32)
    for name in ("model.onnx", "model.float.onnx"):
        content = (tmp_path / "out" / name).read_bytes()
        assert (
            len(content)
            == (
                result.report.compressed if name == "model.onnx" else result.report.pruned
            ).file_bytes
        )
        session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
        assert [v.name for v in session.get_outputs()] == ["label", "map"]
        labels, maps = session.run(None, {"x": x})
        assert [max(m, key=m.get) for m in maps] == ["ny"[k] for k in labels]
    again = onnxadmm.compress(given, spec(tmp_path), output=tmp_path / "out", resume=True)
    assert not again.files


def test_the_objective_may_name_the_map_or_what_stands_for_it(tmp_path):
    for name in ("map", "probabilities"):
        objective = {"loss": "cross_entropy", "output": name}
        result = onnxadmm.compress(
            classifier(),
            spec(tmp_path, objective=objective, quantize=[], benchmark={"providers": []}),
        )
        assert result.report.original.metrics == {"accuracy": 1.0}
    with pytest.raises(SpecError, match="no output 'maps'"):
        onnxadmm.compress(classifier(), spec(tmp_path, objective={"output": "maps"}))


def test_inspect_says_what_stands_for_it():
    seen = onnxadmm.inspect(classifier())
    assert seen.outputs == ("label", "probabilities")
    assert "map is a sequence or map: probabilities" in seen.warnings[0]
