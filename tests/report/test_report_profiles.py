"""Profiles of several models, laid side by side."""

from __future__ import annotations

import pytest
from report_samples import lenet_report, profile, with_profile

from onnxadmm.report.html import render_html
from onnxadmm.report.markdown import render_markdown
from onnxadmm.report.profiles import FallbackFacts, LayerFacts
from onnxadmm.report.profiling import offloaded, slowest, views
from onnxadmm.report.summary import models_of


def test_operators_and_layers_stand_side_by_side(lenet):
    (view,) = views(models_of(lenet))
    assert view.models == ("original", "pruned", "compressed")
    operators = {r.label: [bool(c.ms) for c in r.cells] for r in view.operators}
    assert operators["Conv"] == [True, True, False]
    assert operators["QLinearConv"] == [False, False, True]
    layers = [r.label for r in view.layers]
    # What only the int8 model has comes where it runs.
    assert layers == ["image_q", "conv1", "pool1", "conv2", "pool2", "fc1", "fc2"]
    conv = view.layers[1]
    assert conv.detail == "Conv → QLinearConv"
    assert [c.ms.replace("\N{NO-BREAK SPACE}", " ") for c in conv.cells] == [
        "21.0 µs",
        "6.30 µs",
        "6.93 µs",
    ]


def test_a_layer_that_is_fused_otherwise_goes_where_most_of_its_nodes_are():
    def with_layers(facts, layers):
        listed = [
            LayerFacts(layer=k, nodes=n, operator="Op", provider="cpu", ms=1) for k, n in layers
        ]
        found = facts.latency["cpu"].profile.model_copy(update={"layers": listed, "run_ms": 3.0})
        return with_profile(facts, found)

    lenet = lenet_report()
    models = {
        "a": with_layers(lenet.original, [("conv", ["conv", "relu"]), ("add", ["mul", "add"])]),
        "b": with_layers(lenet.compressed, [("x", ["new"]), ("sum", ["relu", "mul", "add"])]),
    }
    (view,) = views(models)
    assert [r.label for r in view.layers] == ["x", "conv", "add"]
    assert [bool(c.ms) for c in view.layers[2].cells] == [True, True]
    assert [bool(c.ms) for c in view.layers[1].cells] == [True, False]


def test_the_slowest_rows_keep_their_order(lenet):
    (view,) = views(models_of(lenet))
    rows = slowest(view.layers, 3)
    assert [r.label for r in rows] == ["conv1", "conv2", "fc1"]
    assert len(slowest(view.layers)) == len(view.layers)


@pytest.fixture
def on_gpu(lenet):
    """The sample as if it had run on a GPU, with two nodes left on the CPU."""
    away = profile("compressed", 1.0).model_copy(
        update={
            "fallbacks": (
                FallbackFacts(
                    operator="Resize",
                    provider="cpu",
                    nodes=2,
                    names=["up1", "up2"],
                    reason="no kernel",
                    ms=0.03,
                ),
            ),
            "copies": 4,
            "copies_ms": 0.012,
        }
    )
    latency = lenet.compressed.latency["cpu"].model_copy(
        update={"profile": away, "peak_device_bytes": 48_000_000}
    )
    facts = lenet.compressed.model_copy(update={"latency": {"cuda": latency}})
    return lenet.model_copy(update={"compressed": facts})


def test_what_fell_back_is_said_with_reason_and_price(on_gpu):
    (said,) = offloaded(models_of(on_gpu))
    said = said.replace("\N{NO-BREAK SPACE}", " ")
    assert said.startswith("compressed on CUDA: 2 of 7 nodes run on the CPU instead, 25 % of a run")
    assert "2 × Resize: no kernel" in said
    assert "4 copies between the memories take 10 %" in said
    assert "the GPU waits" in said
    for text in (render_html(on_gpu), render_markdown(on_gpu)):
        assert "run on the CPU instead" in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "GPU memory, CUDA" in render_html(on_gpu)


def test_a_report_without_profiles_has_no_section(bare):
    assert views(models_of(bare)) == []
    assert "Where the time goes" not in render_html(bare)
