"""A model whose weights make no channels is refused with what would help."""

import numpy as np
import onnx.parser
import pytest
from graphs import Builder
from onnx import numpy_helper

import onnxadmm
from onnxadmm.errors import UnsupportedError
from onnxadmm.progress import Silent


def test_no_layer_makes_channels():
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 4] y)'
        "{ y = PRelu (x, slope) }"
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "slope"))
    spec = {"version": 1, "prune": [{"structure": "channel", "amount": 0.5}]}
    with pytest.raises(UnsupportedError, match="makes float channels"):
        onnxadmm.compress(proto, spec)


def test_layers_inside_a_branch_are_the_reason():
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x, bool c) => (float[N, 3] y) { y = If (c) <'
        "then_branch = t () => (float[N, 3] u) <float[4, 3] w = {1,2,3,4,5,6,7,8,9,8,7,6}> { u = MatMul (x, w) }, "
        "else_branch = e () => (float[N, 3] v) <float[4, 3] z = {1,2,3,4,5,6,7,8,9,8,7,6}> { v = MatMul (x, z) }> }"
    )
    spec = {"version": 1, "prune": [{"structure": "channel", "amount": 0.5}]}
    with pytest.raises(UnsupportedError, match="its layers lie inside an If"):
        onnxadmm.compress(proto, spec)


def test_an_opset_without_integers_is_refused_before_training(tmp_path):
    b = Builder(0, 3, 6, opset=9)
    b.conv(8)
    b.activation("Relu")
    b.head("pool")
    np.savez(tmp_path / "d.npz", x=np.zeros((8, 3, 6, 6), np.float32))
    spec = {
        "version": 1,
        "data": {"train": {"inputs": {"x": str(tmp_path / "d.npz")}}},
        "objective": "distill",
        "prune": [{"structure": "channel", "amount": 0.5}],
        "quantize": [{"layers": "*"}],
    }
    stages = Stages()
    with pytest.raises(UnsupportedError, match="opset 9 has no QuantizeLinear"):
        onnxadmm.compress(b.model(), spec, progress=stages)
    assert stages.begun == ["analyse"]


class Stages(Silent):
    """Notes which stages begin."""

    def __init__(self):
        self.begun = []

    def stage(self, name):
        self.begun.append(name)
