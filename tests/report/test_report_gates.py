import pytest
from report_samples import bare_report, lenet_report

from onnxadmm.report import (
    BatchLatency,
    LatencyFacts,
    MetricChange,
    ModelFacts,
    Ratios,
    SpeedupFacts,
    Unmeasured,
    judge,
)
from onnxadmm.spec import Drop, Gates


def only(gates, report):
    (gate,) = judge(gates, report)
    return gate


def with_metric(name, before, after):
    facts = {"file_bytes": 10, "parameters": 10, "nonzero_parameters": 10, "macs": 10}
    original = ModelFacts(**facts, metrics={name: before})
    compressed = ModelFacts(**facts, metrics={name: after})
    return bare_report(
        original=original, compressed=compressed, ratios=Ratios.between(original, compressed)
    )


def test_all_gates_of_the_sample_pass(lenet):
    assert [g.name for g in lenet.gates] == [
        "max_drop.accuracy",
        "min_speedup.cpu",
        "max_latency_ms.cpu",
        "max_file_bytes",
        "min_compression",
    ]
    assert all(g.passed for g in lenet.gates)
    assert lenet.gates[3].value == 39_012


def test_no_gates_no_verdicts(lenet):
    assert judge(Gates(), lenet) == []


@pytest.mark.parametrize(
    ("name", "before", "after", "limit", "passed"),
    [
        ("accuracy", 0.9925, 0.9915, 0.001, True),  # binary rounding must not fail it
        ("accuracy", 0.9925, 0.9914, 0.001, False),
        ("accuracy", 0.99, 0.995, 0.0, True),
        ("agreement", 1.0, 1.0, 0.0, True),
        ("mse", 1.0, 1.2, 0.1, False),
        ("mse", 1.0, 0.5, 0.0, True),
        ("loss", 0.2, 0.25, 0.05, True),
    ],
)
def test_max_drop(name, before, after, limit, passed):
    gate = only(Gates(max_drop={name: limit}), with_metric(name, before, after))
    assert gate.passed is passed
    assert gate.limit == limit
    assert ("too much" in gate.message) is not passed


def test_max_drop_says_the_miss():
    gate = only(Gates(max_drop={"accuracy": 0.001}), with_metric("accuracy", 0.9925, 0.99))
    said = gate.message.replace("\N{NO-BREAK SPACE}", " ")
    assert said == "accuracy gets worse by 0.25 pp; 0.10 pp allowed; 0.15 pp too much"


@pytest.mark.parametrize(
    ("name", "before", "after", "limit", "passed"),
    [
        ("accuracy", 0.8, 0.792, 0.01, True),
        ("accuracy", 0.8, 0.79, 0.01, False),
        ("accuracy", 0.8, 0.9, 0.0, True),
        ("mse", 2.0, 2.1, 0.05, True),
        ("mse", 2.0, 2.2, 0.05, False),
        ("mse", 0.0, 0.0, 0.0, True),
    ],
)
def test_a_relative_drop_is_a_share_of_the_originals_value(name, before, after, limit, passed):
    gates = Gates(max_drop={name: Drop(relative=limit)})
    gate = only(gates, with_metric(name, before, after))
    assert gate.passed is passed
    assert ("too much" in gate.message) is not passed
    assert "of the original's value" in gate.message


def test_a_relative_drop_from_nothing_is_unmeasured():
    gates = Gates(max_drop={"mse": Drop(relative=0.5)})
    gate = only(gates, with_metric("mse", 0.0, 0.1))
    assert not gate.passed
    assert gate.value is None


def with_interval(before, after, low, high, name="accuracy"):
    report = with_metric(name, before, after)
    change = MetricChange(
        low=low,
        high=high,
        relative_low=low / before,
        relative_high=high / before,
        samples=500,
    )
    ratios = report.ratios.model_copy(update={"metric_changes": {name: change}})
    return report.model_copy(update={"ratios": ratios})


def test_a_drop_is_judged_by_the_worse_end_of_its_interval():
    report = with_interval(0.99, 0.988, -0.006, 0.002)
    gate = only(Gates(max_drop={"accuracy": 0.003}), report)
    assert not gate.passed
    assert gate.value == 0.006
    said = gate.message.replace("\N{NO-BREAK SPACE}", " ")
    assert "gets worse by 0.20 pp (interval −0.20 pp to 0.60 pp, 500 samples)" in said
    assert "0.30 pp too much at the end of the interval, which more samples narrow" in said
    assert only(Gates(max_drop={"accuracy": 0.006}), report).passed
    by_value = Drop(absolute=0.003, by="value")
    assert only(Gates(max_drop={"accuracy": by_value}), report).passed
    relative = Drop(relative=0.006)
    assert not only(Gates(max_drop={"accuracy": relative}), report).passed


def test_less_is_better_turns_the_interval_around():
    report = with_interval(1.0, 1.1, -0.05, 0.25, name="mse")
    assert only(Gates(max_drop={"mse": 0.25}), report).passed
    assert not only(Gates(max_drop={"mse": 0.2}), report).passed


def test_every_number_of_threads_counts(lenet):
    """The sample was timed on 1 thread, and on 4 at batch 64: 2.84 times, and 5.17 times at least."""
    spec = {**lenet.spec, "benchmark": {**lenet.spec["benchmark"], "threads": [1, 4]}}
    report = lenet.model_copy(update={"spec": spec})
    gate = only(Gates(min_speedup={"cpu": 2.0}), report)
    assert gate.value is None
    assert "batch 1 on 4" in gate.message.replace("\N{NO-BREAK SPACE}", " ")
    slow = {"4": {"64": SpeedupFacts(ratio=1.5, low=1.4, high=1.6)}}
    ratios = lenet.ratios.model_copy(update={"speedup_more_threads": {"cpu": slow}})
    gate = only(Gates(min_speedup={"cpu": 2.0}), lenet.model_copy(update={"ratios": ratios}))
    assert gate.value == 1.4
    assert not gate.passed


def test_latency_is_judged_by_the_upper_end_of_its_interval(lenet):
    batch = BatchLatency.of([1.0] * 9, 1).model_copy(update={"low_ms": 0.9, "high_ms": 1.2})
    facts = {"latency": {"cpu": LatencyFacts.of({1: batch})}}
    report = lenet_report(compressed=lenet.compressed.model_copy(update=facts))
    gate = only(Gates(max_latency_ms={"cpu": 1.1}), report)
    assert not gate.passed
    assert gate.value == 1.2
    assert "interval" in gate.message
    assert only(Gates(max_latency_ms={"cpu": 1.2}), report).passed


def test_min_speedup_takes_the_low_end_of_the_worst_batch(lenet):
    speedup = {
        "cpu": {
            1: SpeedupFacts(ratio=4.0, low=3.9, high=4.1),
            64: SpeedupFacts(ratio=2.05, low=1.95, high=2.2),
        }
    }
    report = lenet_report(ratios=Ratios.between(lenet.original, lenet.compressed, speedup))
    gate = only(Gates(min_speedup={"cpu": 2.0}), report)
    assert not gate.passed
    assert gate.value == 1.95
    assert "batch 64" in gate.message
    assert "short" in gate.message
    assert only(Gates(min_speedup={"cpu": 1.95}), report).passed


def test_a_batch_size_that_was_asked_for_and_not_measured_fails(lenet):
    speedup = {"cpu": {1: SpeedupFacts(ratio=4.0, low=3.9, high=4.1)}}
    report = lenet_report(ratios=Ratios.between(lenet.original, lenet.compressed, speedup))
    gate = only(Gates(min_speedup={"cpu": 2.0}), report)
    assert not gate.passed
    assert gate.value is None
    assert "batch 64 was not measured" in gate.message


@pytest.mark.parametrize(
    "gates",
    [
        Gates(max_drop={"accuracy": 0.5}),
        Gates(min_speedup={"cuda": 0.1}),
        Gates(max_latency_ms={"cuda": 1e6}),
    ],
)
def test_unmeasured_is_failed(bare, gates):
    gate = only(gates, bare)
    assert not gate.passed
    assert gate.value is None
    assert "not measured" in gate.message


def test_unmeasured_gives_the_recorded_reason():
    report = bare_report(unmeasured=[Unmeasured(what="latency.cuda", reason="no GPU here")])
    assert "no GPU here" in only(Gates(max_latency_ms={"cuda": 1.0}), report).message


def test_latency_size_and_compression_at_and_beyond_the_limit(lenet):
    median = lenet.compressed.latency["cpu"].median_ms
    assert only(Gates(max_latency_ms={"cpu": median}), lenet).passed
    assert not only(Gates(max_latency_ms={"cpu": median * 0.999}), lenet).passed
    assert only(Gates(max_file_bytes=39_012), lenet).passed
    gate = only(Gates(max_file_bytes=39_000), lenet)
    assert not gate.passed
    assert "12 too many" in gate.message
    assert only(Gates(min_compression=lenet.ratios.parameters), lenet).passed
    assert not only(Gates(min_compression=lenet.ratios.parameters * 1.01), lenet).passed
