"""Warnings before the work: what a model or a spec won't gain; and what the run measured about it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import onnxadmm
from onnxadmm import bench
from onnxadmm.channels.selection import is_bounded
from onnxadmm.errors import SpecError
from onnxadmm.pipeline.analysis import analyse, channel_targets
from onnxadmm.pipeline.foreseeing import Foreseen, foresee, peculiarities, with_measured
from onnxadmm.spec import parse_spec


def network(width=40):
    b = Builder(3, 2, 6)
    b.conv(width)
    b.activation("Relu")
    b.conv(12)
    b.head("flatten")
    return b.model()


@pytest.fixture(scope="module")
def analysis():
    return analyse(network())


def said(analysis, **sections):
    spec = parse_spec({"version": 1, **sections})
    targets = channel_targets(analysis, spec)
    return [w.text for w in foresee(spec, analysis.classes, targets, analysis.layers)]


def prune(**keys):
    return [{"structure": "channel", "amount": 0.5, **keys}]


def test_a_spec_without_pitfalls_is_not_warned_of(analysis):
    assert said(analysis, prune=prune()) == []


def test_an_entry_that_can_take_nothing_says_why(analysis):
    fixed = [c for c in analysis.classes if c.fixed]
    spec = parse_spec({"version": 1, "prune": prune()})
    (found,) = foresee(spec, fixed, {}, analysis.layers)
    assert found.text.startswith("prune entry 1 takes nothing away")
    assert all(c.name in found.text and c.reason in found.text for c in fixed)


@pytest.mark.parametrize("structure", ["unstructured", "n_of_m", "block"])
def test_zeros_bring_no_speed(analysis, structure):
    (text,) = said(analysis, prune=[{"structure": structure, "amount": 0.5}])
    assert structure in text
    assert "no speed" in text


def test_int8_is_warned_of_on_cuda_only(analysis):
    data = {"train": {"inputs": {"x": "x.npz"}}}
    objective = {"loss": "distill"}
    keys = {"quantize": [{}], "data": data, "objective": objective}
    assert said(analysis, **keys) == []
    (text,) = said(analysis, **keys, benchmark={"providers": ["cpu", "cuda"]})
    assert "CUDA" in text
    assert "slower" in text


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from([32, 40, 50, 100, 200]),
    st.floats(0.01, 0.95),
    st.sampled_from([None, 1, 3, 4, 8, 16]),
)
def test_widths_and_rates_off_the_alignment_are_named(width, amount, round_to):
    analysis = _wide(width)
    rule = prune(amount=amount, **({"round_to": round_to} if round_to else {}))
    spec = parse_spec({"version": 1, "prune": rule})
    sizes = [c.size for c in analysis.classes if not c.fixed]
    bounded = [is_bounded(size, spec.prune[0]) for size in sizes]
    if all(bounded):
        with pytest.raises(SpecError, match="at most"):
            channel_targets(analysis, spec)
        return
    targets = channel_targets(analysis, spec)
    texts = " ".join(said(analysis, prune=rule))
    (wide,) = (c for c in analysis.classes if c.size == width and not c.fixed)
    kept = targets.get(wide.name, width)
    assert (f"keeps {kept} of {width}" in texts) == (kept < width and kept % 8 != 0)
    assert (f"of {width} at amount" in texts) == (kept == width)


_ANALYSES: dict[int, object] = {}


def _wide(width):
    if width not in _ANALYSES:
        _ANALYSES[width] = analyse(network(width))
    return _ANALYSES[width]


def timing(provider="cpu", **speedups):
    setting = bench.Setting(provider, 1, 1)
    return bench.Comparison(
        setting, {}, {n: bench.Speedup(r, r * 0.9, r * 1.1) for n, r in speedups.items()}
    )


def test_the_measured_ratio_completes_a_warning():
    warning = Foreseen("zeros bring no speed", "pruned")
    whole = with_measured(warning, [timing(compressed=1.02)], 1.0)
    assert whole.startswith("zeros bring no speed. Measured")
    assert "1.02×" in whole
    assert "CPU" in whole
    assert with_measured(warning, [], 1.0).endswith("Not timed.")


@pytest.mark.parametrize(
    ("int8", "verdict"), [(1.0, "slower"), (4.0, "faster"), (2.05, "no clear difference")]
)
def test_int8_is_set_against_the_float_model_on_its_provider(int8, verdict):
    warning = Foreseen("int8 on CUDA", "int8", "cuda")
    timings = [timing("cpu", pruned=1, compressed=9), timing("cuda", pruned=2, compressed=int8)]
    whole = with_measured(warning, timings, 2.0)
    assert verdict in whole
    assert "CPU" not in whole
    missing = [bench.Unmeasured(bench.Setting("cuda", 1, 1), "no GPU here")]
    said = with_measured(warning, missing, 2.0)
    assert "CUDA: not measured" in said
    # The reason stands in the note on what wasn't measured, once.
    assert "no GPU here" not in said
    assert with_measured(warning, [*missing, *missing], 2.0) == said


def test_a_run_says_it_first_and_reports_what_it_measured():
    heard = []

    class Listener:
        def stage(self, name):
            self.now = name

        def tick(self, tick): ...

        def note(self, text): ...

        def warn(self, text):
            heard.append((self.now, text))

    spec = {
        "version": 1,
        "prune": [{"structure": "unstructured", "amount": 0.5}],
        "benchmark": {"rounds": 5},
    }
    report = onnxadmm.compress(network(), spec, progress=Listener()).report
    (stage, early), *_ = heard
    assert stage == "analyse"
    (whole,) = (w for w in report.warnings if w.startswith(early))
    measured = report.ratios.speedup["cpu"]["1"]
    assert f"{measured.ratio:.2f}" in whole


def test_zeros_that_the_model_came_with_are_said_by_both():
    model = network()
    for value in model.graph.initializers.values():
        content = value.const_value.numpy().copy()
        content[::2] = 0
        value.const_value = ir.tensor(content, name=value.name)
    spec = {
        "version": 1,
        "prune": [{"structure": "channel", "amount": 0.5}],
        "benchmark": {"providers": []},
    }
    report = onnxadmm.compress(model, spec).report
    (said,) = (w for w in report.warnings if "are zero" in w)
    assert said.endswith("Not timed.")
    assert any("are zero" in w for w in onnxadmm.inspect(model).warnings)


def test_inspect_warns_of_the_model_and_of_a_given_spec():
    found = onnxadmm.inspect(network())
    assert any("below 0.1 takes nothing" in w for w in found.warnings)
    spec = {"version": 1, "prune": [{"structure": "n_of_m", "amount": 0.5}]}
    planned = onnxadmm.inspect(network(), spec)
    assert set(planned.warnings) > set(found.warnings)
    assert planned.to_dict()["warnings"] == list(planned.warnings)


def test_inspect_says_which_weights_carry_no_channels_and_why():
    """A filter bank that is put together of zeros and a few numbers holds most of the parameters."""
    text = """
        <ir_version: 8, opset_import: ["" : 18]>
        bank (float[N, 40] x) => (float[N, 5] y)
        <float[7, 5] last, float[30] numbers, int64[30] places, int64[1] all = {280}, int64[2] shape = {40, 7}>
        {
            zeros = ConstantOfShape (all)
            flat = ScatterElements (zeros, places, numbers)
            filters = Reshape (flat, shape)
            heard = MatMul (x, filters)
            y = MatMul (heard, last)
        }
    """
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, content in (
        ("last", rng.standard_normal((7, 5)).astype(np.float32)),
        ("numbers", rng.standard_normal(30).astype(np.float32)),
        ("places", rng.permutation(280)[:30]),
    ):
        proto.graph.initializer.append(numpy_helper.from_array(content, name))
    found = onnxadmm.inspect(proto)
    assert [(w.name, w.parameters) for w in found.apart] == [("zeros", 280)]
    assert "ScatterElements" in found.apart[0].reason
    (shown,) = found.to_dict()["weights_without_channels"]
    assert shown["name"] == "zeros"


@pytest.mark.parametrize("kind", ["INT8", "FLOAT"])
def test_weights_that_are_integers_already_are_told(kind):
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 8] x) => (float[N, 4] y) <float s = {0.1}> '
        "{ f = Cast <to = 1> (w) d = Mul(f, s) h = MatMul(x, d) y = MatMul(h, v) }"
    )
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    content = rng.integers(-9, 9, (8, 16)).astype(np.int8 if kind == "INT8" else np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(content, "w"))
    v = rng.standard_normal((16, 4)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(v, "v"))
    told = [w for w in onnxadmm.inspect(proto).warnings if "are integers already" in w]
    assert bool(told) == (kind == "INT8")
    assert all("67" in w for w in told)


@pytest.mark.parametrize(("feeds", "said"), [("x", 1), ("w", 0)])
def test_samples_that_depend_on_their_batch_are_told(feeds, said):
    graph = onnx.parser.parse_graph(
        f"""g (float[n, 3, 4] x) => (float[n, 3, 4] z) <float[1, 3, 4] w, float[3] one> {{
            y, m, v = BatchNormalization<training_mode = 1>({feeds}, one, one, one, one)
            z = Add(x, y)
        }}"""
    )
    held = {"w": np.ones((1, 3, 4), np.float32), "one": np.ones(3, np.float32)}
    graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in held.items())
    opset = [onnx.helper.make_opsetid("", 17)]
    model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8))
    assert sum("training form" in t for t in peculiarities(model, ["w"])) == said
