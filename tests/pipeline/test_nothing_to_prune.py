"""A model whose weights make no channels is refused with what would help."""

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

import onnxadmm
from onnxadmm.errors import UnsupportedError


def test_no_layer_makes_channels():
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 4] y)'
        "{ y = PRelu (x, slope) }"
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "slope"))
    spec = {"version": 1, "prune": [{"structure": "channel", "amount": 0.5}]}
    with pytest.raises(UnsupportedError, match="makes float channels"):
        onnxadmm.compress(proto, spec)
