"""The imported module computes what ONNX Runtime computes, with the graph's own weights as parameters."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from graphs import Builder, networks
from hypothesis import HealthCheck, given, settings

from onnxadmm.bench import open_session
from onnxadmm.errors import UnsupportedError
from onnxadmm.graph import compare_outputs, model_bytes, probe
from onnxadmm.modules import import_model, write_back


def draw(model, rows, seed=0):
    """Return normal random numbers for every input, by name."""
    rng = np.random.default_rng(seed)
    shapes = {
        v.name: [d if isinstance(d, int) else rows for d in v.shape]
        for v in model.graph.inputs
        if v.name not in model.graph.initializers
    }
    return {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}


def run_both(model, rows=3, seed=0):
    imported = import_model(model, probe(model))
    feeds = draw(model, rows, seed)
    expected = open_session(model_bytes(model)).run(list(imported.outputs), feeds)
    got = imported.module(*(torch.from_numpy(feeds[n]) for n in imported.inputs))
    return imported, expected, [g.detach().numpy() for g in got]


def small_network(**kwargs):
    b = Builder(1, 2, 6, **kwargs)
    b.conv(4)
    b.batchnorm()
    b.activation("PRelu")
    b.residual()
    b.head("reshape")
    return b.model()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=networks())
def test_outputs_match_onnx_runtime_at_another_batch_size(model):
    _, expected, got = run_both(model)
    assert compare_outputs(expected, got) < 1e-5


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=networks())
def test_every_weight_gets_a_finite_gradient(model):
    imported, _, _ = run_both(model)
    feeds = draw(model, 2)
    outputs = imported.module(*(torch.from_numpy(feeds[n]) for n in imported.inputs))
    sum(o.square().sum() for o in outputs).backward()
    for name, parameter in imported.binding.items():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_weights_are_parameters_under_their_own_names_and_statistics_are_not():
    model = small_network()
    imported = import_model(model, probe(model))
    bn = next(n for n in model.graph if n.op_type == "BatchNormalization")
    assert {v.name for v in bn.inputs[1:3]} <= set(imported.binding)
    assert not {v.name for v in bn.inputs[3:5]} & set(imported.binding)
    names = dict(imported.module.named_parameters())
    assert set(imported.binding) == set(names)


def test_a_shared_weight_is_one_parameter():
    b = Builder(0, 3, 6)
    b.conv(4)
    b.shared()
    b.head("pool")
    model = b.model()
    imported, expected, got = run_both(model)
    assert compare_outputs(expected, got) < 1e-5
    shared = [v for v in model.graph.initializers.values() if len(list(v.uses())) == 2]
    assert len(shared) == 1
    assert sum(p is imported.binding[shared[0].name] for p in imported.module.parameters()) == 1


def test_writing_back_without_training_changes_no_byte():
    model = small_network()
    before = ir.to_proto(model).SerializeToString()
    write_back(model, import_model(model, probe(model)).weights())
    assert ir.to_proto(model).SerializeToString() == before


def test_after_a_step_and_writing_back_both_runtimes_agree():
    model = small_network()
    imported, _, _ = run_both(model)
    optimizer = torch.optim.SGD(imported.module.parameters(), lr=0.01)
    imported.module(torch.randn(4, 2, 6, 6))[0].square().mean().backward()
    optimizer.step()
    write_back(model, imported.weights())
    x = np.random.default_rng(2).standard_normal((5, 2, 6, 6)).astype(np.float32)
    expected = open_session(model_bytes(model)).run(None, {"x": x})
    got = [g.detach().numpy() for g in imported.module(torch.from_numpy(x))]
    assert compare_outputs(expected, got) < 1e-5


def test_the_module_deep_copies_and_keeps_training():
    imported, _, _ = run_both(small_network())
    twin = copy.deepcopy(imported.module)
    x = torch.randn(2, 2, 6, 6)
    assert torch.equal(twin(x)[0], imported.module(x)[0])
    next(iter(twin.parameters())).data.zero_()
    assert not torch.equal(twin(x)[0], imported.module(x)[0])


@pytest.mark.parametrize(
    "name", ["conv.weight", "/a/b:0", "training", "a..b", "a.b.c", "weight[0]", "für"]
)
def test_any_name_can_be_a_weight(name):
    b = Builder(0, 2, 6)
    b.conv(4, w=b.weight(4, 2, 3, 3, name=name))
    b.conv(3, w=b.weight(3, 4, 3, 3, name=f"{name}.more"))
    b.head("pool")
    imported, expected, got = run_both(b.model())
    assert compare_outputs(expected, got) < 1e-5
    assert {name, f"{name}.more"} <= set(imported.binding)


def test_an_operator_without_a_builder_is_refused_by_name():
    b = Builder(0, 2, 6)
    b.conv(4)
    b.value = b.node("RandomUniformLike", b.value)
    b.head("pool")
    model = b.model()
    with pytest.raises(
        UnsupportedError, match=r"RandomUniformLike 'randomuniformlike\d+'.*can't be trained"
    ):
        import_model(model, probe(model))


def test_an_attribute_that_a_builder_does_not_know_is_refused():
    b = Builder(0, 2, 6)
    b.conv(4)
    b.head("pool")
    model = b.model()
    seen = probe(model)
    conv = next(n for n in model.graph if n.op_type == "Conv")
    conv.attributes["winograd"] = ir.AttrInt64("winograd", 1)
    with pytest.raises(UnsupportedError, match="'winograd'"):
        import_model(model, seen)


POOL = "kernel_shape = [3, 4], strides = [2, 3], auto_pad"
SIZED = [
    *(
        f'Conv<auto_pad = "{auto}", strides = [2, 3]>(x, k)'
        for auto in ("SAME_UPPER", "SAME_LOWER")
    ),
    *(f'{pool}<{POOL} = "SAME_LOWER">(x)' for pool in ("MaxPool", "AveragePool", "LpPool")),
    f'AveragePool<{POOL} = "SAME_UPPER", count_include_pad = 1>(x)',
    'ConvTranspose<auto_pad = "SAME_UPPER", strides = [2, 3]>(x, t)',
]


@pytest.mark.parametrize("call", SIZED, ids=[f"{k}-{c.split('<')[0]}" for k, c in enumerate(SIZED)])
def test_pads_that_depend_on_the_size_follow_it(call):
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 2, H, W] x) => (float[N, C, h, w] y) {{
        y = {call}
    }}"""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in {"k": (3, 2, 3, 4), "t": (2, 3, 3, 4)}.items():
        if f", {name})" in call:
            kernel = rng.standard_normal(shape).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(kernel, name))
    model = ir.from_proto(proto)
    imported, session = import_model(model, probe(model)), open_session(model_bytes(model))
    for height, width in ((8, 8), (9, 7), (7, 10), (3, 11)):
        x = np.random.default_rng(1).standard_normal((2, 2, height, width)).astype(np.float32)
        got = [imported.module(torch.from_numpy(x))[0].detach().numpy()]
        assert compare_outputs(session.run(None, {"x": x}), got) < 1e-5


def test_levels_reach_a_frozen_node_in_their_own_type():
    text = """
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N, 4, 4, 2] x) => (float[N, 2, 2, 2] y) <float[2] b = {0.5, -0.5}> {
        levels, scale, zero = DynamicQuantizeLinear(x)
        largest = com.microsoft.NhwcMaxPool<kernel_shape = [2, 2], strides = [2, 2]>(levels)
        values = DequantizeLinear(largest, scale, zero)
        y = Add(values, b)
    }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    imported = import_model(model, probe(model))
    assert len(imported.frozen) == 1
    x = np.random.default_rng(1).standard_normal((4, 4, 4, 2)).astype(np.float32)
    got = [imported.module(torch.from_numpy(x))[0].detach().numpy()]
    expected = open_session(model_bytes(model)).run(None, {"x": x})
    assert compare_outputs(expected, got) < 1e-5


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("renamed", [False, True])
def test_one_tensor_as_bias_and_as_mean_learns_as_the_bias(renamed, running):
    mean, variance = ("mean", "variance") if renamed else ("zero", "one")
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 2, H] x) => (float[N, 2, H] y) <float[2] zero = {{0.0, 0.0}}, float[2] one = {{1.0, 1.0}}> {{
        mean = Identity(zero)
        variance = Identity(one)
        y = BatchNormalization(x, one, zero, {mean}, {variance})
    }}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    module = import_model(model, probe(model), statistics=running).module
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    expected = open_session(model_bytes(model)).run(None, {"x": x.numpy()})
    assert compare_outputs(expected, [module.eval()(x)[0].detach().numpy()]) < 1e-5
    # Eight bytes behind an Identity are no reason to leave torch's own kernel.
    assert any(n.target is torch.nn.functional.batch_norm for n in module.graph.nodes)
    module.train()(x)[0].sum().backward()
    assert dict(module.named_parameters())["zero"].grad.tolist() == [12.0, 12.0]


def test_a_module_s_state_comes_back_and_shares_no_memory_with_the_graph():
    model = small_network()
    imported = import_model(model, probe(model))
    with torch.no_grad():
        for parameter in imported.binding.values():
            parameter.add_(0.5)
    write_back(model, imported.state)
    before = model_bytes(model)
    with torch.no_grad():
        for parameter in imported.binding.values():
            parameter.add_(0.5)
    assert model_bytes(model) == before
