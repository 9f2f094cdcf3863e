"""How weights lie in memory while they are trained is nobody's business but the trainer's."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from runs import SAMPLES, settings

from onnxadmm.data import Dataset
from onnxadmm.graph import probe
from onnxadmm.modules import import_model
from onnxadmm.training import Trainer, plan_retraining


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions_over_one_to_three_axes_train(axes):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 2, *[3] * axes)).astype(np.float32)
    parsed = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[n, 2, {", ".join(["4"] * axes)}] x) => (float[n, 5] y) '
        "{ h = Conv(x, w) p = GlobalAveragePool(h) y = Flatten(p) }"
    )
    parsed.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = ir.serde.deserialize_model(parsed)
    imported = import_model(model, probe(model))
    samples = rng.standard_normal((SAMPLES, 2, *[4] * axes)).astype(np.float32)
    given = settings(train=Dataset({"x": samples}, rng.integers(0, 5, SAMPLES), {}), evaluate=None)
    Trainer(imported, plan_retraining(given.schedule, given.steps_per_epoch), settings=given).run()
    learnt = imported.weights()["w"]
    assert learnt.shape == weight.shape
    assert learnt.flags.c_contiguous
    assert not np.array_equal(learnt, weight)
