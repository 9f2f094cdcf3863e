"""Weights that a ConstantOfShape makes learn and are cut like any other."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

import onnxadmm
from onnxadmm.bench import open_session
from onnxadmm.graph import compare_outputs, constant_of, model_bytes, probe
from onnxadmm.modules import import_model
from onnxadmm.ops.filled import filled_weights, materialise_weights

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 3] y) <float[4, 16] w> {
    shape = Constant<value = int64[2] {16, 3}>()
    v = ConstantOfShape<value = float[1] {0.25}>(shape)
    wide = Constant<value = int64[2] {1, 16}>()
    zeros = ConstantOfShape(wide)
    h = MatMul(x, w)
    a = Add(h, zeros)
    r = Relu(a)
    y = MatMul(r, v)
}"""


def network():
    proto = onnx.parser.parse_model(TEXT)
    del proto.graph.initializer[:]
    content = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(content, "w"))
    return ir.from_proto(proto)


def test_a_filled_weight_is_held_under_its_name_and_learns():
    model = network()
    x = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    expected = open_session(model_bytes(model)).run(None, {"x": x})
    # What is only added can as well be a constant that nobody learnt.
    assert filled_weights(model) == ["v"]
    materialise_weights(model)
    assert compare_outputs(expected, open_session(model_bytes(model)).run(None, {"x": x})) < 1e-6
    assert set(import_model(model, probe(model)).binding) == {"w", "v"}


def test_its_channels_go():
    result = onnxadmm.compress(
        network(),
        {
            "version": 1,
            "prune": [{"structure": "channel", "amount": 0.5}],
            "benchmark": {"providers": []},
        },
    )
    held = result.model.graph.initializers
    assert constant_of(held["v"]).shape == (8, 3)
    assert constant_of(held["w"]).shape == (4, 8)
