"""Static int8: close to the float model, and integer kernels in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from graphs import Builder, networks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxadmm.bench import open_session
from onnxadmm.errors import SpecError, UnsupportedError
from onnxadmm.graph import model_bytes
from onnxadmm.quantize import quantize
from onnxadmm.spec import ActivationQuantization, Quantize, WeightQuantization

MINMAX = ActivationQuantization(calibrate="minmax")
RULE = Quantize(activations=MINMAX)


def feeds(model, count=4, rows=8):
    rng = np.random.default_rng(0)
    shape = [d if isinstance(d, int) else rows for d in model.graph.inputs[0].shape]
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def everything(model):
    return {n.name for n in model.graph}


def to_int8(model, rule=RULE, names=None):
    return quantize(model, [(rule, everything(model) if names is None else names)], feeds(model))


def outputs(model, feed):
    return open_session(model_bytes(model)).run(None, feed)


def relative_error(model, quantized):
    feed = feeds(model, 1)[0]
    a, b = outputs(model, feed)[0], outputs(quantized, feed)[0]
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-6))


def classifier(opset=17, bias=True):
    """conv-relu-maxpool-conv-flatten-gemm, as ONNX Runtime likes it."""
    b = Builder(0, 3, 8, opset)
    b.conv(8, bias=bias)
    b.activation("Relu")
    b.pool()
    b.conv(16, bias=bias)
    b.activation("Relu")
    b.pool()
    b.head("flatten")
    return b.model()


def initializers_of(model, op_type, port):
    return [n.inputs[port] for n in model.graph if n.op_type == op_type]


def executed(model, tmp_path):
    """Return the operators that ONNX Runtime runs once it has optimised the graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model_bytes(model), options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=networks(), signed=st.booleans(), granularity=st.sampled_from(["channel", "tensor"]))
def test_quantized_networks_stay_close_and_keep_their_interface(model, signed, granularity):
    before = ir.to_proto(model)
    rule = Quantize(
        weights=WeightQuantization(granularity=granularity),
        activations=ActivationQuantization(calibrate="minmax", signed=signed),
    )
    result = to_int8(model, rule)
    after = ir.to_proto(result.model)
    onnx.checker.check_model(after, full_check=True)
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert after.opset_import == before.opset_import
    assert after.ir_version == before.ir_version
    assert ir.to_proto(model) == before
    assert result.notes == ()
    # Every layer is there, and its weight is int8 now.
    layers = [n for n in model.graph if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert set(result.layers) == {n.name for n in layers}
    kept = {n.name: n for n in result.model.graph}
    for layer in layers:
        weight = kept[layer.name].inputs[1].producer()
        assert weight.op_type == "DequantizeLinear"
        assert weight.inputs[0].const_value.dtype == ir.DataType.INT8
    held = {i.name for i in after.graph.initializer}
    assert held <= {name for n in after.graph.node for name in n.input}
    assert relative_error(model, result.model) < 0.35


def test_a_plain_network_loses_almost_nothing():
    for bias in (True, False):
        model = classifier(bias=bias)
        assert relative_error(model, to_int8(model).model) < 0.03


def test_a_scale_a_channel_is_closer_than_a_scale_a_tensor():
    model = classifier()
    weight = initializers_of(model, "Conv", 1)[1]
    uneven = (
        weight.const_value.numpy() * np.logspace(-3, 0, 16, dtype=np.float32)[:, None, None, None]
    )
    weight.const_value = ir.tensor(uneven, name=weight.name)
    tensor = Quantize(weights=WeightQuantization(granularity="tensor"), activations=MINMAX)
    levels = {}
    for kind, rule in (("channel", RULE), ("tensor", tensor)):
        node = initializers_of(to_int8(model, rule).model, "Conv", 1)[1].producer()
        stored, scale = (v.const_value.numpy() for v in node.inputs[:2])
        spread = scale.reshape(-1, 1, 1, 1) if scale.ndim else scale
        levels[kind] = float(np.abs(stored * spread - uneven).mean())
    assert levels["channel"] < levels["tensor"] / 3


@pytest.mark.parametrize("signed", [True, False, None])
def test_onnx_runtime_runs_integer_kernels(tmp_path, signed):
    rule = Quantize(activations=ActivationQuantization(calibrate="minmax", signed=signed))
    ran = executed(to_int8(classifier(), rule).model, tmp_path)
    assert ran.count("QLinearConv") == 2
    assert ran.count("QGemm") == 1
    assert not {"Conv", "FusedConv", "Gemm", "Relu", "MatMul"} & set(ran)
    # Data moves as integers: one quantization at the input, one back at the last layer's end.
    assert ran.count("QuantizeLinear") == 1
    assert sum(op.endswith("MaxPool") for op in ran) == 2
    assert ran.count("DequantizeLinear") == 1


def test_the_activations_type_follows_the_rule():
    for signed, dtype in (
        (True, ir.DataType.INT8),
        (False, ir.DataType.UINT8),
        (None, ir.DataType.UINT8),
    ):
        rule = Quantize(activations=ActivationQuantization(calibrate="minmax", signed=signed))
        model = to_int8(classifier(), rule).model
        zeros = {v.const_value.dtype for v in initializers_of(model, "QuantizeLinear", 2)}
        assert zeros == {dtype}


def test_what_moves_data_has_one_scale_on_both_sides():
    model = to_int8(classifier()).model
    for node in model.graph:
        if node.op_type in ("MaxPool", "Flatten"):
            before, after = node.inputs[0].producer(), node.outputs[0].uses()[0].node
            assert (before.op_type, after.op_type) == ("DequantizeLinear", "QuantizeLinear")
            assert list(before.inputs[1:3]) == list(after.inputs[1:3])


def test_a_shared_weight_is_quantized_once():
    b = Builder(0, 3, 6)
    b.conv(4)
    b.shared()
    b.head("pool")
    model = b.model()
    result = to_int8(model)
    weights = [v.producer() for v in initializers_of(result.model, "Conv", 1)]
    assert len(weights) == 3
    assert weights[1] is weights[2]
    assert weights[0] is not weights[1]
    assert relative_error(model, result.model) < 0.05


def test_layers_outside_of_the_rule_stay_float():
    model = classifier()
    convs = [n.name for n in model.graph if n.op_type == "Conv"]
    result = to_int8(model, names={convs[1]})
    assert result.layers == (convs[1],)
    nodes = {n.name: n for n in result.model.graph}
    assert nodes[convs[1]].inputs[1].producer().op_type == "DequantizeLinear"
    assert nodes[convs[0]].inputs[1].const_value.dtype == ir.DataType.FLOAT
    gemm = next(n for n in result.model.graph if n.op_type == "Gemm")
    assert gemm.inputs[1].const_value.dtype == ir.DataType.FLOAT
    assert relative_error(model, result.model) < 0.03


def test_a_weight_shared_with_a_float_layer_stays_for_that_one():
    b = Builder(0, 3, 6)
    b.conv(4)
    b.shared()
    b.head("pool")
    model = b.model()
    first, second = [n.name for n in model.graph if n.op_type == "Conv"][1:]
    result = to_int8(model, names={first})
    nodes = {n.name: n for n in result.model.graph}
    assert nodes[second].inputs[1].const_value.dtype == ir.DataType.FLOAT
    assert nodes[first].inputs[1].producer().op_type == "DequantizeLinear"
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)


def turned(model):
    """Return a model whose weights stand behind a Transpose, as exporters leave them."""
    model = model.clone()
    for node in list(model.graph):
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        weight = node.inputs[1]
        if weight.producer() is not None:  # turned already, for a layer that shares it
            continue
        order = list(range(weight.const_value.shape.rank()))[::-1]
        stored = ir.Value(name=f"{weight.name}_stored")
        stored.const_value = ir.tensor(
            np.ascontiguousarray(weight.const_value.numpy().transpose(order)), name=stored.name
        )
        stored.type, stored.shape = weight.type, stored.const_value.shape
        model.graph.register_initializer(stored)
        turn = ir.Node("", "Transpose", [stored], [ir.AttrInt64s("perm", order)])
        model.graph.insert_before(node, turn)
        name = weight.name
        weight.replace_all_uses_with(turn.outputs[0])
        model.graph.initializers.pop(name)
        turn.outputs[0].name = name
    return model


def stored_weights(model):
    held = (v.const_value for v in model.graph.initializers.values())
    return sorted(
        (tuple(t.shape.numpy()), t.numpy().tobytes())
        for t in held
        if t.dtype == ir.DataType.INT8 and len(t.shape) > 1
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=networks(), granularity=st.sampled_from(["channel", "tensor"]))
def test_weights_behind_a_transpose_become_the_same_int8(model, granularity, tmp_path_factory):
    rule = Quantize(weights=WeightQuantization(granularity=granularity), activations=MINMAX)
    names = everything(model)
    straight, behind = to_int8(model, rule, names), to_int8(turned(model), rule, names)
    assert straight.layers == behind.layers
    assert stored_weights(straight.model) == stored_weights(behind.model)
    # Ranges are observed on the float graph, where ONNX Runtime may sum up in another order.
    error = relative_error(model, straight.model)
    assert relative_error(model, behind.model) == pytest.approx(error, abs=0.02)
    folder = tmp_path_factory.mktemp("optimized")
    assert "Transpose" not in executed(behind.model, folder) or "Transpose" in executed(
        straight.model, folder
    )


def test_of_two_rules_for_a_layer_the_last_holds():
    model = classifier()
    convs = [n.name for n in model.graph if n.op_type == "Conv"]
    tensor = Quantize(layers="t", weights=WeightQuantization(granularity="tensor"))
    result = quantize(model, [(RULE, everything(model)), (tensor, {convs[1]})], feeds(model))
    nodes = {n.name: n for n in result.model.graph}
    shapes = [nodes[c].inputs[1].producer().inputs[1].const_value.numpy().shape for c in convs]
    assert shapes == [(8,), ()]


def test_each_rule_calibrates_its_own_layers():
    model = classifier()
    convs = [n.name for n in model.graph if n.op_type == "Conv"]
    narrow = Quantize(layers="n", activations=ActivationQuantization(percentile=60.0))

    def scales(*rules):
        quantized = quantize(model, rules, feeds(model)).model
        nodes = {n.name: n for n in quantized.graph}
        return [float(nodes[c].inputs[0].producer().inputs[1].const_value.numpy()) for c in convs]

    wide = scales((RULE, set(convs)))
    first = scales((RULE, {convs[1]}), (narrow, {convs[0]}))
    assert first[0] < 0.7 * wide[0]


@pytest.mark.parametrize("opset", [10, 11, 12])
def test_before_opset_13_weights_have_one_scale_and_a_note_says_so(opset):
    b = Builder(0, 3, 8, opset)
    b.conv(8)
    b.activation("Relu")
    b.pool()
    b.conv(4)
    b.head("flatten")
    model = b.model()
    result = to_int8(model)
    assert len(result.notes) == 1
    assert f"opset {opset} has no scales by channel" in result.notes[0]
    proto = ir.to_proto(result.model)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == opset
    for node in result.model.graph:
        if node.op_type == "DequantizeLinear":
            assert node.inputs[1].const_value.numpy().shape == ()
            assert "axis" not in node.attributes
    assert relative_error(model, result.model) < 0.05
    tensor = Quantize(weights=WeightQuantization(granularity="tensor"), activations=MINMAX)
    assert to_int8(model, tensor).notes == ()


def test_before_opset_10_there_is_no_int8():
    b = Builder(0, 3, 6, 9)
    b.conv(4)
    b.head("pool")
    with pytest.raises(UnsupportedError, match="opset 9 has no QuantizeLinear"):
        to_int8(b.model())


def test_nothing_that_can_be_int8_is_said():
    model = classifier()
    with pytest.raises(SpecError, match="no layer that it names can be int8"):
        to_int8(model, names={n.name for n in model.graph if n.op_type == "Relu"})


def test_an_input_that_is_always_zero_keeps_the_bias():
    model = classifier()
    zero = [{"x": np.zeros((4, 3, 8, 8), np.float32)}]
    result = quantize(model, [(RULE, everything(model))], zero)
    a, b = outputs(model, zero[0])[0], outputs(result.model, zero[0])[0]
    assert np.abs(a).max() > 0.01
    assert np.linalg.norm(a - b) < 0.03 * np.linalg.norm(a)


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_a_filter_that_all_but_vanished_keeps_its_bias(granularity):
    model = classifier()
    weight, bias = (initializers_of(model, "Conv", p)[0] for p in (1, 2))
    content = weight.const_value.numpy().copy()
    content[: 3 if granularity == "channel" else None] *= np.float32(1e-12)
    weight.const_value = ir.tensor(content, name=weight.name)
    bias.const_value = ir.tensor(np.linspace(0.5, 1, 8, dtype=np.float32), name=bias.name)
    rule = Quantize(weights=WeightQuantization(granularity=granularity), activations=MINMAX)
    assert relative_error(model, to_int8(model, rule).model) < 0.03


def test_the_same_model_and_data_give_the_same_bytes():
    first, second = (model_bytes(to_int8(classifier()).model) for _ in range(2))
    assert first == second


def test_names_that_are_taken_are_not_used_again():
    b = Builder(0, 2, 6)
    b.conv(4, w=b.weight(4, 2, 3, 3, name="x_scale"))
    b.conv(4, w=b.weight(4, 4, 3, 3, name="x_scale_q"))
    b.head("pool")
    model = b.model()
    result = to_int8(model)
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
    assert relative_error(model, result.model) < 0.05


def test_a_layer_whose_output_is_the_graphs_keeps_it_float():
    b = Builder(0, 2, 6)
    b.conv(4)
    b.activation("Relu")
    b.conv(3)
    model = b.model()
    result = to_int8(model)
    assert result.model.graph.outputs[0].producer().op_type == "Conv"
    assert result.model.graph.outputs[0].name == model.graph.outputs[0].name
    assert relative_error(model, result.model) < 0.03


def test_sums_and_joins_and_poolings_between_int8_layers_run_on_integers(tmp_path):
    b = Builder(0, 3, 8)
    b.conv(8)
    b.activation("Relu")
    b.residual()
    left = b.value
    right = b.node("Conv", left, b.constant(b.rng.standard_normal((8, 8, 1, 1)) / 3, np.float32))
    b.value = b.node("Concat", left, right, axis=1)
    b.value = b.node("AveragePool", b.value, kernel_shape=[2, 2], strides=[2, 2])
    b.value = b.node("GlobalAveragePool", b.value)
    b.value = b.node("Flatten", b.value)
    b.value = b.node("MatMul", b.value, b.constant(b.rng.standard_normal((16, 5)) / 4, np.float32))
    model = b.model()
    result = to_int8(model).model
    ran = executed(result, tmp_path)
    for op in ("QLinearAdd", "QLinearConcat", "QLinearAveragePool", "QLinearGlobalAveragePool"):
        assert op in ran, ran
    assert not {"Add", "Concat", "AveragePool", "GlobalAveragePool", "Conv"} & set(ran)
    assert ran.count("QuantizeLinear") == 1
    assert relative_error(model, result) < 0.1
