import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from pydantic import ValidationError
from report_samples import bare_report, lenet_report

from onnxadmm.errors import InputError
from onnxadmm.report import (
    BatchLatency,
    ChannelClass,
    LatencyFacts,
    ModelFacts,
    Ratios,
    Report,
    SpeedupFacts,
    Verification,
    judge,
    report_schema,
)
from onnxadmm.report import __file__ as package
from onnxadmm.report.timing import MAX_SAMPLES, thin
from onnxadmm.spec import parse_spec


def published_schema():
    return json.loads(Path(package).with_name("report.schema.json").read_text("utf-8"))


@pytest.mark.parametrize("make", [lenet_report, bare_report])
def test_json_round_trip_is_exact(make):
    report = make()
    text = report.to_json()
    assert Report.from_json(text) == report
    assert Report.from_json(text).to_json() == text
    assert text.endswith("}\n")
    assert json.loads(text) == json.loads(json.dumps(json.loads(text), sort_keys=True))


def test_published_schema_is_the_generated_one():
    assert published_schema() == report_schema(), (
        "write json.dumps(report_schema(), indent=2) and a newline to report.schema.json"
    )


@pytest.mark.parametrize("make", [lenet_report, bare_report])
def test_documents_validate_against_the_published_schema(make):
    schema = published_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document = json.loads(make().to_json())
    validator.validate(document)
    document["surprise"] = 1
    assert not validator.is_valid(document)


STORED = Path(__file__).with_name("report-version-1.json")


def test_a_stored_report_of_version_1_is_still_read_and_judged():
    stored = json.loads(STORED.read_text("utf-8"))
    older = json.loads(Path(package).with_name("report.schema.1.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(older).validate(stored)
    report = Report.from_json(STORED.read_bytes())
    assert report.version == 2
    assert report.original.file_bytes == stored["original"]["file_bytes"]
    gates = judge(parse_spec(report.spec).gates, report)
    assert [(g.name, g.value, g.passed) for g in gates] == [
        (g["name"], g["value"], g["passed"]) for g in stored["gates"]
    ]
    jsonschema.Draft202012Validator(published_schema()).validate(json.loads(report.to_json()))


def test_contract_fields_are_there(lenet):
    document = json.loads(lenet.to_json())
    for model in ("original", "compressed"):
        facts = document[model]
        assert {"file_bytes", "parameters", "nonzero_parameters", "macs"} <= facts.keys()
        assert {"metrics", "latency", "peak_memory_bytes"} <= facts.keys()
        assert {"median_ms", "p90_ms", "p99_ms", "runs"} <= facts["latency"]["cpu"].keys()
    assert {"ratio", "low", "high"} == document["ratios"]["speedup"]["cpu"]["64"].keys()
    assert {"class", "size", "kept", "fixed", "reason"} <= document["channels"][0].keys()
    assert {"name", "limit", "value", "passed"} <= document["gates"][0].keys()
    assert {"loss", "metric", "rho", "primal", "dual"} <= document["history"][0].keys()
    assert {"cut_vs_masked_max_error", "import_max_error", "passed"} <= document[
        "verification"
    ].keys()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"seed": 0', '"seed": 0.5', "seed"),
        ('"seed": 0', '"seed": NaN', "seed"),
        ('"seed": 0', '"sead": 0', "sead"),
        ('"seed": 0,', "", "seed is missing"),
        ('"version": 2,\n  "w', '"version": 3,\n  "w', "version 3 is newer"),
        ('"macs": 2293000', '"macs": "2293000"', "original.macs"),
        ('"macs": 2293000', '"macs": -1', "original.macs"),
        ('"macs": 2293000', '"macs": 1e400', "original.macs"),
        ('"amount": 0.5', '"amount": Infinity', "spec"),
        ('"model": "net.onnx"', '"model": "\\ud800"', "not JSON"),
        ('"passed": true', '"passed": 1', "verification.passed"),
    ],
)
def test_a_damaged_document_is_refused_by_file_and_field(bare, old, new, said):
    text = bare.to_json()
    assert old in text
    with pytest.raises(InputError, match=r"mine\.json") as caught:
        Report.from_json(text.replace(old, new, 1), name="mine.json")
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "[" * 100_000, b"\xff\xfe", '{"spec": 1}'])
def test_what_is_no_report_is_refused(text):
    with pytest.raises(InputError):
        Report.from_json(text)


def test_a_deep_spec_is_refused(bare):
    deep = "[" * 60 + "]" * 60
    text = bare.to_json().replace('"amount": 0.5', f'"amount": {deep}')
    with pytest.raises(InputError, match="deeper"):
        Report.from_json(text)


def test_models_are_frozen_and_strict(bare):
    with pytest.raises(ValidationError):
        bare.seed = 3
    with pytest.raises(ValidationError):
        ModelFacts(file_bytes=1.5, parameters=1, nonzero_parameters=1, macs=1)
    with pytest.raises(ValidationError, match="12 of 10"):
        ChannelClass(class_name="a", size=10, kept=12)
    with pytest.raises(ValidationError):
        Verification(passed=True, tolerance=float("nan"))
    with pytest.raises(ValidationError, match="batch size"):
        LatencyFacts(
            batch_size=1,
            median_ms=1.0,
            p90_ms=1.0,
            p99_ms=1.0,
            runs=1,
            batches={"one": BatchLatency.of([1.0], 1)},
        )


def test_latency_summary_is_numpys():
    samples = np.random.default_rng(0).gamma(2, 1, 1234)
    facts = BatchLatency.of(samples.tolist(), 8)
    assert facts.median_ms == pytest.approx(np.quantile(samples, 0.5))
    assert facts.p90_ms == pytest.approx(np.quantile(samples, 0.9))
    assert facts.p99_ms == pytest.approx(np.quantile(samples, 0.99))
    assert facts.runs == 1234
    assert facts.throughput_per_s == pytest.approx(8000 / np.median(samples))
    assert len(facts.samples_ms) == MAX_SAMPLES
    assert facts.samples_ms[0] == samples.min()
    assert facts.samples_ms[-1] == samples.max()


def test_thinning_keeps_few_samples_and_the_median():
    assert thin([3.0, 1.0, 2.0]) == (1.0, 2.0, 3.0)
    assert np.median(thin([float(i) for i in range(10_001)])) == pytest.approx(5000, abs=50)


def test_latency_of_batches_is_headed_by_the_first():
    facts = LatencyFacts.of({64: BatchLatency.of([5.0], 64), 1: BatchLatency.of([1.0], 1)})
    assert (facts.batch_size, facts.median_ms, list(facts.batches)) == (64, 5.0, ["64", "1"])


def test_ratios():
    before = ModelFacts(
        file_bytes=100, parameters=50, nonzero_parameters=0, macs=9, metrics={"mse": 1.0, "x": 2.0}
    )
    after = ModelFacts(
        file_bytes=10, parameters=0, nonzero_parameters=0, macs=9, metrics={"mse": 1.5}
    )
    speed = SpeedupFacts(ratio=2.0, low=1.9, high=2.1)
    ratios = Ratios.between(before, after, {"cpu": {64: speed}, "cuda": {}})
    assert ratios.file_bytes == 10
    assert ratios.parameters is None  # nothing is left; infinity is no JSON
    assert ratios.nonzero_parameters == 1
    assert ratios.macs == 1
    assert ratios.metrics == {"mse": 0.5}
    assert ratios.latency == {"cpu": speed}
    assert ratios.speedup == {"cpu": {"64": speed}}
