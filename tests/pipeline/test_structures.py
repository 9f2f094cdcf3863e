"""Every structure through the whole pipeline: what it zeroes stays zero in the file that is written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxadmm
from onnxadmm.channels import weight_macs
from onnxadmm.errors import SpecError
from onnxadmm.graph import load_model, model_bytes, probe

UNTIMED = "benchmark.providers=[]"


def conv_weights(result):
    proto = onnx.load_from_string(model_bytes(result.pruned))
    held = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    return [held[n.input[1]] for n in proto.graph.node if n.op_type == "Conv"]


def compressed(workplace, entries, *more):
    return onnxadmm.compress(
        workplace / "model.onnx",
        workplace / "spec.yaml",
        overrides=[f"prune=[{entries}]", "gates={}", "schedule.retrain=1", UNTIMED, *more],
    )


@pytest.mark.parametrize("epochs", [0, 1], ids=["one shot and retraining", "ADMM"])
def test_several_structures_on_one_weight_hold_together(workplace, epochs):
    result = compressed(
        workplace,
        '{layers: "conv*", structure: n_of_m, amount: 0.5},'
        '{layers: "conv*", structure: filter, amount: 0.25},'
        '{layers: "conv*", structure: pattern, amount: 0.4, patterns: 3},'
        # Idle channels would be cut, and rows and groups counted on other widths than they were chosen on.
        "{structure: channel, amount: 0.0, round_to: 12, min_channels: 12}",
        f"schedule.epochs={epochs}",
    )
    for weight in conv_weights(result):
        rows = weight.reshape(len(weight), -1)
        alive = (rows != 0).any(1)
        assert 1 <= alive.sum() <= round(0.75 * len(rows))
        whole = rows[:, : rows.shape[1] // 4 * 4].reshape(len(rows), -1, 4)
        assert ((whole != 0).sum(-1) <= 2).all()
        kernels = weight.reshape(-1, weight[0, 0].size) != 0
        assert (kernels.sum(1) <= round(0.6 * kernels.shape[1])).all()


def test_a_rate_that_leaves_nothing_is_refused_before_training(workplace):
    with pytest.raises(SpecError, match=r"prune entry 1: .* at most 0\.9\d* can go"):
        compressed(workplace, '{layers: "conv*", structure: filter, amount: 0.99}')


def test_patterns_without_kernels_are_refused(workplace):
    with pytest.raises(SpecError, match=r"none of the layers .* has kernels"):
        compressed(workplace, '{layers: "gemm*", structure: pattern, amount: 0.5}')


def test_structures_without_speed_are_said(workplace):
    result = compressed(workplace, '{layers: "conv*", structure: shape, amount: 0.5}')
    assert any(w.startswith("shape zeros bring no speed") for w in result.report.warnings)
    assert all(np.count_nonzero(w) <= round(w.size / 2) + len(w) for w in conv_weights(result))


@pytest.mark.parametrize("unit", ["parameters", "macs"])
@pytest.mark.parametrize("epochs", [0, 1], ids=["one shot", "ADMM"])
def test_one_budget_over_all_layers_is_met_by_the_cut_model(workplace, unit, epochs):
    result = compressed(
        workplace,
        f"{{structure: channel, scope: global, unit: {unit}, amount: 0.6, round_to: 1}}",
        f"schedule.epochs={epochs}",
    )
    before, after = (getattr(m, unit) for m in (result.report.original, result.report.pruned))
    assert after <= 0.4 * before
    # One channel more of any class would not have fitted, so not much of the budget is left.
    assert after >= 0.25 * before
    kept = {c.size: c.kept for c in result.report.channels if not c.fixed}
    assert all(k >= 2 for k in kept.values())
    assert not any("keep" in w for w in result.report.warnings), result.report.warnings


@pytest.mark.parametrize("epochs", [0, 1], ids=["one shot", "ADMM"])
def test_one_rate_over_the_weights_of_all_layers_is_met_exactly(workplace, epochs):
    result = compressed(
        workplace,
        "{structure: unstructured, scope: global, amount: 0.5},"
        '{layers: "conv8", structure: unstructured, amount: 0.25},'
        "{structure: channel, amount: 0.0}",
        f"schedule.epochs={epochs}",
        "schedule.retrain=0",
    )
    proto = onnx.load_from_string(model_bytes(result.pruned))
    held = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    layers = {
        n.name: held[n.input[1]]
        for n in proto.graph.node
        if n.op_type in ("Conv", "Gemm", "MatMul")
    }
    alone = layers.pop("conv8")
    assert np.count_nonzero(alone) == round(0.75 * alone.size)
    size = sum(w.size for w in layers.values())
    kept = {n: np.count_nonzero(w) for n, w in layers.items()}
    assert sum(kept.values()) == round(0.5 * size)
    # The rate is one of all, not of each.
    assert len({round(k / layers[n].size, 3) for n, k in kept.items()}) > 1
    if not epochs:
        least = min(np.abs(w[w != 0]).min() for w in layers.values())
        before = onnx.load(workplace / "model.onnx")
        whole = {i.name: onnx.numpy_helper.to_array(i) for i in before.graph.initializer}
        names = [n.input[1] for n in proto.graph.node if n.name in layers]
        assert sum(int((np.abs(whole[n]) >= least).sum()) for n in names) == round(0.5 * size)


@pytest.mark.parametrize("epochs", [0, 1], ids=["one shot", "ADMM"])
def test_one_rate_in_macs_over_single_weights_is_met(workplace, epochs):
    result = compressed(
        workplace,
        "{structure: unstructured, scope: global, unit: macs, amount: 0.5}",
        f"schedule.epochs={epochs}",
        "schedule.retrain=0",
    )
    before = load_model(workplace / "model.onnx")
    price = weight_macs(before, probe(before))
    whole = left = 0.0
    sizes = {n: v.const_value.size for n, v in before.graph.initializers.items()}
    proto = onnx.load_from_string(model_bytes(result.pruned))
    held = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    shares = set()
    for name, each in price.items():
        whole += each * sizes[name]
        left += each * np.count_nonzero(held[name])
        shares.add(round(np.count_nonzero(held[name]) / held[name].size, 2))
    assert 0.5 * whole - max(price.values()) < left <= 0.5 * whole
    assert len(shares) > 1
    assert len(set(price.values())) > 1


def test_a_rate_over_all_layers_that_leaves_nothing_is_refused_before_training(workplace):
    with pytest.raises(SpecError, match=r"prune entry 1: amount .* at most 0\.9\d* can go"):
        compressed(workplace, "{structure: unstructured, scope: global, amount: 0.999999}")


def test_an_entry_by_layer_takes_a_class_out_of_the_budget(workplace):
    result = compressed(
        workplace,
        "{structure: channel, scope: global, amount: 0.3, round_to: 1},"
        '{layers: "conv3", structure: channel, amount: 0.0}',
        "schedule.epochs=0",
    )
    kept = {c.size: c.kept for c in result.report.channels if not c.fixed}
    assert kept[12] == 12
    assert kept[10] < 10


def test_a_budget_below_the_least_channels_is_refused_before_training(workplace):
    with pytest.raises(SpecError, match=r"prune entry 1: amount 0\.99 .*; at most 0\.\d+ can go"):
        compressed(workplace, "{structure: channel, scope: global, amount: 0.99, min_channels: 5}")
