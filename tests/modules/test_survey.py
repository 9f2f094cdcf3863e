"""What an import would freeze, refuse and delegate, said beforehand."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx2torch.node_converters import registry
from onnx2torch.utils.common import OperationConverterResult, onnx_mapping_from_node

import onnxadmm
from onnxadmm import ops
from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import probe
from onnxadmm.modules import compare_with_runtime, import_model, survey_model

MIXED = """
<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
g (float[N, 3] x) => (float[N, 3] y, float[N, 2] z) <float[3, 2] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}> {
    y = ai.onnx.ml.Scaler<offset = [0.5], scale = [2.0]>(x)
    h = MatMul(x, w)
    noise = RandomUniformLike(h)
    other = RandomNormalLike(h)
    a = Add(h, noise)
    z = Add(a, other)
}"""


def test_a_survey_names_every_frozen_and_every_refused_node():
    model = ir.from_proto(onnx.parser.parse_model(MIXED))
    seen = probe(model)
    found = survey_model(model, seen)
    assert found.frozen == ("Scaler 'y'",)
    assert len(found.refused) == 2
    assert all("\n" not in reason for reason in found.refused)
    for reason, name in zip(
        found.refused, ("RandomUniformLike 'noise'", "RandomNormalLike 'other'"), strict=True
    ):
        assert reason.startswith(name)
    with pytest.raises(UnsupportedError, match="RandomUniformLike 'noise'"):
        import_model(model, seen)


def test_inspect_says_what_training_would_leave_alone():
    model = ir.from_proto(onnx.parser.parse_model(MIXED))
    found = onnxadmm.inspect(model).to_dict()
    assert found["frozen"] == ["Scaler 'y'"]
    assert len(found["refused"]) == 2
    weights = {t["name"]: t["learns"] for t in found["tensors"] if t["weight"]}
    assert weights["w"]


class Inverse(torch.nn.Module):
    """A converter's module, as a user would write one."""

    def forward(self, x):
        return torch.linalg.inv(x)


@pytest.fixture
def converter():
    registry.add_converter("Inverse", 1, "com.microsoft")(
        lambda node, graph: OperationConverterResult(Inverse(), onnx_mapping_from_node(node))
    )
    yield
    key = registry.OperationDescription("com.microsoft", "Inverse", 1)
    del registry._CONVERTER_REGISTRY[key]


INVERSE = """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
g (float[N, 2, 2] x) => (float[N, 2, 2] y) <float[2, 2] w = {4.0, 0.5, 0.25, 3.0}> {
    h = MatMul(x, w)
    y = com.microsoft.Inverse(h)
}"""


def test_an_operator_without_a_builder_is_delegated_to_onnx2torch(converter):
    model = ir.from_proto(onnx.parser.parse_model(INVERSE))
    assert ops.find(list(model.graph)[1], model.opset_imports) is None
    x = (np.eye(2) * 3 + np.random.default_rng(0).random((4, 2, 2))).astype(np.float32)
    seen = probe(model)
    assert survey_model(model, seen).refused == ()
    imported = import_model(model, seen)
    assert compare_with_runtime(model, imported, {"x": x}).error < 1e-5
    imported.module(torch.from_numpy(x))[0].square().sum().backward()
    assert torch.isfinite(imported.binding["w"].grad).all()
    twin = copy.deepcopy(imported.module)
    assert torch.equal(twin(torch.from_numpy(x))[0], imported.module(torch.from_numpy(x))[0])


def test_without_a_converter_it_is_refused_by_name():
    model = ir.from_proto(onnx.parser.parse_model(INVERSE))
    with pytest.raises(UnsupportedError, match=r"Inverse.*can't be trained"):
        import_model(model, probe(model))


def test_a_frozen_node_may_hold_strings():
    texts = onnx.helper.make_tensor("t", onnx.TensorProto.STRING, [2], [b"ab", b"c"])
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3] x, string[2] s) => (float[N, 3] y, string[4] both) {
            y = Relu(x)
            both = Concat<axis = 0>(s, t)
        }"""
    )
    model.graph.initializer.append(texts)
    graph = ir.from_proto(model)
    assert survey_model(graph, probe(graph)).frozen == ("Concat 'both'",)
