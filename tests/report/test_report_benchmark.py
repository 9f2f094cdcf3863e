"""The document of a benchmark and its files."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from report_samples import lenet_benchmark

from onnxadmm.errors import InputError, SpecError
from onnxadmm.pipeline.checking import check
from onnxadmm.report import __file__ as package
from onnxadmm.report.benchmark import BenchmarkReport, benchmark_schema
from onnxadmm.report.benchmark_files import render_benchmark

EVIL = "<script>alert(1)</script>\"'&\u202e\x1b[31m{{7*7}}[bold]@bob|`$x$"


def test_published_schema_is_the_generated_one_and_documents_validate():
    published = json.loads(Path(package).with_name("benchmark.schema.json").read_text("utf-8"))
    assert published == benchmark_schema()
    validator = jsonschema.Draft202012Validator(published)
    document = json.loads(lenet_benchmark().to_json())
    validator.validate(document)
    document["models"][0]["surprise"] = 1
    assert not validator.is_valid(document)


def test_json_round_trip_is_exact_and_damage_is_named():
    text = lenet_benchmark().to_json()
    assert BenchmarkReport.from_json(text).to_json() == text
    with pytest.raises(InputError, match=r"b\.json: unknown field models\.0\.oops"):
        BenchmarkReport.from_json(text.replace('"name":', '"oops":', 1), "b.json")
    document = json.loads(text)
    with pytest.raises(InputError, match="has no ratios"):
        BenchmarkReport.from_json(json.dumps({**document, "models": document["models"][:1] * 2}))
    with pytest.raises(InputError, match="version 9 is newer"):
        BenchmarkReport.from_json(json.dumps({**document, "version": 9}))


def test_all_files_say_the_same():
    found = lenet_benchmark({"min_speedup": {"cpu": 3.0}, "max_file_bytes": 50_000})
    files = render_benchmark(found)
    assert set(files) == {"benchmark.json", "benchmark.html", "benchmark.md", "benchmark.xml"}
    # The float model is large; the int8 one is slow at batch 1.
    failed = [g.name for g in found.gates if not g.passed]
    assert failed == ["model.float.onnx: max_file_bytes", "model.onnx: min_speedup.cpu"]
    page = files["benchmark.html"].replace("\N{NO-BREAK SPACE}", " ")
    assert "2 of 4 gates failed" in page
    assert "<script" not in page
    suites = ET.fromstring(files["benchmark.xml"])
    assert (suites.get("tests"), suites.get("failures")) == ("4", "2")
    lines = files["benchmark.md"].strip().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert all(line.count("|") == 5 for line in table)
    assert "2 of 4 gates failed" in lines[0].replace("\N{NO-BREAK SPACE}", " ")
    assert len([line for line in lines if line and not line.startswith("|")]) <= 10


def test_names_stay_text():
    found = lenet_benchmark()
    models = (found.models[0].model_copy(update={"name": EVIL}), *found.models[1:])
    files = render_benchmark(found.model_copy(update={"models": models}))
    for name in ("benchmark.html", "benchmark.md"):
        assert "<script" not in files[name]
        assert "\x1b" not in files[name]
    assert "{{7*7}}" in files["benchmark.html"]


def test_a_stored_benchmark_is_judged_again(tmp_path):
    (tmp_path / "benchmark.json").write_text(lenet_benchmark().to_json(), "utf-8")
    own = check(tmp_path / "benchmark.json")
    assert [g.name for g in own if not g.passed] == ["model.float.onnx: max_file_bytes"]
    assert check(tmp_path) == own
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "{version: 1, prune: [{structure: channel, amount: 0.5}], gates: {min_compression: 30}}"
    )
    assert [g.passed for g in check(tmp_path, spec)] == [False, False]
    assert all(g.passed for g in check(tmp_path, spec, ["gates.min_compression=20"]))
    with pytest.raises(SpecError, match="--spec"):
        check(tmp_path, None, ["gates.min_compression=20"])
