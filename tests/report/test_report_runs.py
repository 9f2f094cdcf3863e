"""Several runs side by side: the Pareto front, and what a reader gets of it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import bare_report, lenet_report
from test_report_rendering import EVIL, Page

from onnxadmm.errors import InputError, SpecError
from onnxadmm.pipeline.comparing import compare_folders
from onnxadmm.report import __file__ as package
from onnxadmm.report.run_files import render_runs
from onnxadmm.report.runs import compare_runs, comparison_schema, pareto_front

COSTS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12)


def variant(**changes):
    """Return the sample with other numbers of its result."""
    base = lenet_report()
    return base.model_copy(update={"compressed": base.compressed.model_copy(update=changes)})


@pytest.fixture
def runs():
    return {
        "plain": lenet_report(),
        "smaller": variant(file_bytes=20_000, metrics={"accuracy": 0.98}),
        "worse": variant(file_bytes=50_000, metrics={"accuracy": 0.97}),
    }


@given(COSTS)
def test_the_front_is_what_nothing_beats(costs):
    front = pareto_front(costs)
    assert any(front)
    for mine, on in zip(costs, front, strict=True):
        beaten = any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True))
            for other in costs
        )
        assert on is not beaten


def test_a_model_that_lacks_a_number_is_on_no_front_and_beats_nobody():
    assert pareto_front([None, (1.0, 1.0), (2.0, 2.0)]) == [False, True, False]


def test_runs_of_one_original_share_it_and_compare_by_paired_time(runs):
    found = compare_runs(runs)
    assert found.relative
    assert found.metric == "accuracy"
    assert found.setting == ("cpu", "1")
    assert [p.kind for p in found.points] == ["original"] + ["float", "compressed"] * 3
    assert len({p.mark for p in found.points}) == 7
    first = found.points[0]
    assert first.time.value == 1
    assert first.front  # nothing is as accurate
    result = next(p for p in found.points if p.kind == "compressed")
    speedup = runs["plain"].ratios.speedup["cpu"]["1"]
    assert result.time.value == pytest.approx(1 / speedup.ratio)
    assert result.time.low == pytest.approx(1 / speedup.high)
    on = {(p.run, p.kind): p.front for p in found.points}
    assert on["smaller", "compressed"]
    assert not on["worse", "compressed"]


def test_runs_of_different_originals_compare_by_milliseconds_and_say_so(runs):
    other = runs["plain"].model_copy(update={"model": "other.onnx"})
    found = compare_runs({"a": runs["plain"], "b": other})
    assert not found.relative
    assert sum(p.kind == "original" for p in found.points) == 2
    assert any("different originals" in r for r in found.remarks)
    batch = other.compressed.latency["cpu"].batches["1"]
    assert found.points[-1].time.value == batch.median_ms


def test_what_is_not_shared_is_not_compared_and_said():
    found = compare_runs({"a": lenet_report(), "b": bare_report()})
    assert found.metric is None
    assert found.setting is None
    assert len(found.remarks) >= 3
    assert all(render_runs(found).values())
    with pytest.raises(SpecError):
        compare_runs({})


def test_the_files_say_the_same_and_the_page_needs_nothing_beside_it(runs):
    found = compare_runs(runs)
    files = render_runs(found)
    assert set(files) == {"comparison.html", "comparison.json", "comparison.md"}
    stored = json.loads(files["comparison.json"])
    page = Page(files["comparison.html"])
    assert page.tags.count("svg") == 2
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    table = [line for line in files["comparison.md"].splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(stored["models"])
    for line, model in zip(table[2:], stored["models"], strict=True):
        assert model["run"] in line
        assert line.endswith("| yes |") is model["front"]
    assert render_runs(compare_runs(runs)) == files


def test_the_published_schema_is_the_generated_one_and_documents_validate(runs):
    published = json.loads(Path(package).with_name("comparison.schema.json").read_text("utf-8"))
    assert published == comparison_schema()
    validator = jsonschema.Draft202012Validator(published)
    several = ({"a": lenet_report(), "b": bare_report()}, {"b": bare_report()}, runs)
    for found in map(compare_runs, several):
        document = json.loads(found.to_json())
        validator.validate(document)
        document["models"][0]["surprise"] = 1
        assert not validator.is_valid(document)


def test_names_stay_text():
    files = render_runs(compare_runs({EVIL: lenet_report(model=EVIL)}))
    Page(files["comparison.html"])
    assert "<script" not in files["comparison.html"]
    assert "<script" not in files["comparison.md"]
    assert "\x1b" not in files["comparison.md"]


def test_folders_are_read_and_the_files_written(tmp_path, runs):
    for name, report in runs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(report.to_json(), encoding="utf-8")
    folders = [tmp_path / name for name in runs]
    found = compare_folders([*folders, folders[0]], tmp_path / "out")
    assert {p.run for p in found.points[1:]} == set(runs)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "comparison.html",
        "comparison.json",
        "comparison.md",
    ]
    (tmp_path / "plain" / "report.json").write_text("{}")
    with pytest.raises(InputError, match=r"report\.json"):
        compare_folders(folders)
    with pytest.raises(InputError, match="no such file"):
        compare_folders([tmp_path / "nowhere"])
