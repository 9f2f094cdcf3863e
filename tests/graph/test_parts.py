"""A model whose weights one protobuf can't hold is written with a file beside it, and nothing is copied."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from small_graphs import FLOAT, cnn, external, mlp, model, save, weight

from onnxadmm.bench import open_isolated, run
from onnxadmm.errors import ModelError, ResourceError, UnsupportedError
from onnxadmm.graph import (
    constant_of,
    load_model,
    model_bytes,
    model_contents,
    model_digest,
    model_size,
    parts,
    probe,
    save_model,
    stage_model,
)


@pytest.fixture
def small_limits(monkeypatch):
    """Let a few hundred bytes of weights be too large for one file."""
    for name in ("WHOLE_BYTES", "STAGED_BYTES", "PIECE_BYTES"):
        monkeypatch.setattr(parts, name, 100)
    monkeypatch.setattr("onnxadmm.graph.external.PIECE_BYTES", 100)
    monkeypatch.setattr("onnxadmm.graph.external.WHOLE_BYTES", 3000)


def wide():
    """Return a network of two layers with weights of several element types beside them."""
    rng = np.random.default_rng(0)
    proto = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "v"], ["y"], name="second"),
        ],
        [("x", FLOAT, ["N", 8])],
        [("y", FLOAT, ["N", 8])],
        [weight("w", 8, 16), weight("v", 16, 8)],
    )
    for kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT4, TensorProto.BOOL):
        content = np.round(rng.random(300)).tolist()
        proto.graph.initializer.append(helper.make_tensor(f"t{kind}", kind, [300], content))
    proto.graph.initializer[0].doc_string = "of the first layer"
    return proto


@pytest.mark.usefixtures("small_limits")
def test_weights_beside_the_model_come_back_bit_for_bit(tmp_path):
    first = load_model(save(wide(), tmp_path / "one.onnx"))
    save_model(first, tmp_path / "model.onnx")
    (beside,) = (p for p in tmp_path.iterdir() if p.suffix == ".data")
    stored = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    assert {t.name for t in stored.graph.initializer if t.data_location} == {
        "w",
        "v",
        "t10",
        "t16",
        "t22",
        "t9",
    }
    assert model_size(first) == (tmp_path / "model.onnx").stat().st_size + beside.stat().st_size
    second = load_model(tmp_path / "model.onnx")
    # Those of the one that was loaded are read from the file no more.
    beside.unlink()
    for name, value in first.graph.initializers.items():
        held = second.graph.initializers[name].const_value
        assert held.tobytes() == value.const_value.tobytes()
        assert held.dtype == value.const_value.dtype
        assert (held.doc_string or "") == (value.const_value.doc_string or "")
    assert model_digest(second) == model_digest(first)


@pytest.mark.usefixtures("small_limits")
def test_runtimes_get_the_weights_too(tmp_path):
    graph = load_model(save(wide(), tmp_path / "one.onnx"))
    x = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    (found,) = run(open_isolated(graph, name="net"), ["y"], {"x": x})
    w, v = (constant_of(graph.graph.initializers[n]) for n in "wv")
    np.testing.assert_allclose(found, np.maximum(x @ w, 0) @ v, rtol=1e-4, atol=1e-5)
    assert probe(graph).shapes["h"] == (1, 16)


@pytest.mark.usefixtures("small_limits")
def test_the_name_of_the_weights_follows_their_content(tmp_path):
    graph = load_model(save(wide(), tmp_path / "one.onnx"))
    (one, whole), again = model_contents(graph), list(model_contents(graph))
    assert [one, whole] == again
    graph.graph.initializers["w"].const_value = ir.tensor(np.zeros((8, 16), np.float32), name="w")
    other, _ = model_contents(graph)
    assert other != one
    assert whole == "model.onnx"


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sizes=st.lists(st.integers(1, 40_000), max_size=5), text=st.integers(0, 300))
def test_the_size_of_the_file_is_known_without_making_it(sizes, text):
    proto = mlp()
    proto.doc_string = "d" * text
    for index, size in enumerate(sizes):
        proto.graph.initializer.append(weight(f"u{index}", size))
    graph = ir.from_proto(proto)
    assert model_size(graph) == len(model_bytes(graph))


KINDS = (
    *(TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8),
    *(TensorProto.INT4, TensorProto.INT64, TensorProto.BOOL),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    tensors=st.lists(
        st.tuples(st.sampled_from(KINDS), st.integers(0, 700), st.booleans(), st.booleans()),
        max_size=6,
    ),
    texts=st.text(max_size=200),
    branches=st.booleans(),
)
def test_written_in_pieces_a_model_has_the_bytes_of_its_protobuf(
    tensors, texts, branches, monkeypatch, tmp_path
):
    for name in ("STAGED_BYTES", "PIECE_BYTES"):
        monkeypatch.setattr(parts, name, 100)
    proto = wide()
    if branches:
        # Tensors elsewhere are none of the main graph's initializers.
        out = helper.make_tensor_value_info("o", FLOAT, None)
        copy = helper.make_node("Identity", ["inside"], ["o"])
        inner = helper.make_graph([copy], "inner", [], [out], [weight("inside", 300)])
        choice = {"then_branch": inner, "else_branch": inner}
        proto.graph.node.append(helper.make_node("If", ["c"], ["b"], name="choose", **choice))
        proto.graph.initializer.append(helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    for index, (kind, size, raw, described) in enumerate(tensors):
        content = np.arange(size) % 2
        made = helper.make_tensor(f"u{index}", kind, [size], content.tolist())
        if raw:
            made = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(made), f"u{index}")
        if described:
            made.doc_string = f"tensor {texts}"
            made.metadata_props.add(key="k", value=texts)
        proto.graph.initializer.append(made)
    proto.graph.doc_string, proto.producer_name = texts, texts
    proto.metadata_props.add(key="of the model", value=texts)
    graph = load_model(save(proto, tmp_path / "given.onnx"))
    expected = model_bytes(graph)
    (content,) = model_contents(graph).values()
    assert b"".join(content) == expected
    assert model_size(graph) == len(expected)
    assert stage_model(graph, tmp_path, "staged.onnx").read_bytes() == expected


def test_an_initializer_and_a_tensor_of_a_branch_may_share_a_name(tmp_path, small_limits):
    del small_limits
    (tmp_path / "outer.bin").write_bytes(np.full((8, 8), 1, np.float32).tobytes())
    (tmp_path / "inner.bin").write_bytes(np.full((8, 8), 2, np.float32).tobytes())
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["o"])],
        "inner",
        [],
        [helper.make_tensor_value_info("o", FLOAT, None)],
        [external("inner.bin", dims=(8, 8))],
    )
    proto = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("If", ["c"], ["b"], then_branch=inner, else_branch=inner),
            helper.make_node("Add", ["h", "b"], ["y"]),
        ],
        [("x", FLOAT, ["N", 8]), ("c", TensorProto.BOOL, [])],
        [("y", FLOAT, ["N", 8])],
        [external("outer.bin", dims=(8, 8))],
    )
    graph = load_model(save(proto, tmp_path / "m.onnx"))
    assert constant_of(graph.graph.initializers["w"]).max() == 1
    branch = graph.graph[1].attributes["then_branch"].as_graph()
    assert constant_of(branch.initializers["w"]).min() == 2


@pytest.mark.usefixtures("small_limits")
def test_what_the_protobuf_must_hold_is_limited(tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(4096))
    proto = mlp()
    held = helper.make_node("Constant", [], ["k"], value=external("w.bin", dims=(1024,)))
    proto.graph.node.insert(0, held)
    with pytest.raises(UnsupportedError, match="outside the main graph's initializers"):
        load_model(save(proto, tmp_path / "m.onnx"))


@pytest.mark.usefixtures("small_limits")
def test_not_finite_weights_are_found_beside_the_model(tmp_path):
    content = np.zeros((8, 8), np.float32)
    content[3, 3] = np.nan
    (tmp_path / "w.bin").write_bytes(content.tobytes())
    proto = mlp(external("w.bin", dims=(8, 8)))
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 8
    with pytest.raises(ModelError, match="1 of its 64 values are not finite"):
        load_model(save(proto, tmp_path / "m.onnx"))


@pytest.mark.usefixtures("small_limits")
def test_a_full_temporary_folder_is_told(tmp_path, monkeypatch):
    graph = load_model(save(wide(), tmp_path / "one.onnx"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(ResourceError, match="TMPDIR"):
        probe(graph)


def test_a_small_model_stays_one_file(tmp_path):
    graph = load_model(save(cnn(), tmp_path / "m.onnx"))
    assert model_contents(graph) == {"model.onnx": model_bytes(graph)}
