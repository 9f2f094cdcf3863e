"""What a compression cuts beside the channels that the spec asks for."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graphs import Builder

import onnxadmm
from onnxadmm.graph import constant_of
from onnxadmm.graph.constants import set_constant
from onnxadmm.pipeline.benchmarking import Wishes, benchmark

UNTIMED = {"providers": []}


def network():
    b = Builder(3, 3, 6)
    b.conv(12, w=b.weight(12, 3, 3, 3, name="first"))
    b.batchnorm()
    b.activation("Relu")
    b.conv(6, kernel=1)
    b.conv(6, w=b.weight(6, 6, 3, 3, name="third"))
    b.head("pool")
    return b.model()


def set_zero(model, name, where):
    value = model.graph.initializers[name]
    content = np.array(constant_of(value))
    content[where] = 0
    set_constant(value, content)


def test_idle_channels_and_empty_kernel_rows_go_whatever_is_asked_for():
    model = network()
    set_zero(model, "first", slice(0, 5))
    set_zero(model, "third", np.s_[:, :, 0])
    result = onnxadmm.compress(
        model,
        {
            "version": 1,
            "prune": [{"structure": "channel", "amount": 0.0}],
            "benchmark": UNTIMED,
        },
    )
    held = result.model.graph.initializers
    assert tuple(held["first"].shape) == (7, 3, 3, 3)
    assert tuple(held["third"].shape) == (6, 6, 2, 3)
    kept = {c.size: c.kept for c in result.report.channels if not c.fixed}
    assert kept[12] == 7
    assert result.report.verification.cut_vs_masked_max_error < 1e-5


def test_cutting_and_folding_go_together():
    model = network()
    set_zero(model, "first", slice(0, 2))
    result = onnxadmm.compress(
        model,
        {
            "version": 1,
            "prune": [{"structure": "channel", "amount": 0.25, "layers": "first"}],
            "benchmark": UNTIMED,
        },
    )
    # 9 of 12 by magnitude. BatchNormalization and the next layer's columns count, so of the zero filters
    # some may be among the 9; none is left.
    left = constant_of(result.model.graph.initializers["first"])
    assert len(left) in (7, 8, 9)
    assert left.any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("version", [3, 8])
def test_weights_that_are_inputs_too_are_cut_with_their_declared_shapes(version):
    model = network()
    model.ir_version = version
    for value in list(model.graph.initializers.values()):
        model.graph.inputs.append(value)
    spec = {
        "version": 1,
        "prune": [{"structure": "channel", "amount": 0.5}],
        "quantize": [{"layers": "*", "activations": "none"}],
        "benchmark": UNTIMED,
    }
    result = onnxadmm.compress(model, spec)
    assert result.report.ratios.parameters > 2
    assert any("inputs of the graph too" in w for w in result.report.warnings) == (version > 3)
    for graph in (result.model, result.pruned):
        proto = ir.to_proto(graph)
        onnx.checker.check_model(proto, full_check=True)
        held = {t.name: list(t.dims) for t in proto.graph.initializer}
        declared = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.input
        }
        assert {n: d for n, d in declared.items() if n in held} == {
            n: d for n, d in held.items() if n in declared
        }
        feed = {"x": np.ones((2, 3, 6, 6), np.float32)}
        session = ort.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        assert np.isfinite(session.run(None, feed)[0]).all()


def test_indices_of_a_graph_are_drawn_as_they_ran(tmp_path):
    """Edges of a graph name its nodes, of which a batch of one has one."""
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[nodes, 4] x, int64[2, edges] e) => (float[edges, 3] y) '
        "{ h = MatMul(x, a) r = Relu(h) i = Gather <axis = 0> (e, one) g = Gather(r, i) y = MatMul(g, b) }"
    )
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    held = {"a": rng.standard_normal((4, 16)), "b": rng.standard_normal((16, 3))}
    for name, content in held.items():
        tensor = onnx.numpy_helper.from_array(content.astype(np.float32), name)
        proto.graph.initializer.append(tensor)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1), "one"))
    spec = {"version": 1, "prune": [{"structure": "channel", "amount": 0.5}]}
    result = onnxadmm.compress(proto, {**spec, "benchmark": {"rounds": 5}})
    assert result.report.ratios.parameters == pytest.approx(2)
    onnx.save(proto, tmp_path / "model.onnx")
    found = benchmark([tmp_path / "model.onnx"] * 2, wishes=Wishes(rounds=5))
    assert not found.unmeasured
