import importlib
import json
import sys
from pathlib import Path

import pytest
import yaml

LENET = Path(__file__).resolve().parents[1] / "models" / "lenet5"
READMES = (LENET / "README.md", LENET.parents[1] / "README.md")


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.syspath_prepend(str(LENET))
    for name in ("record", "tables"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("record")
    yield module
    for name in ("record", "tables"):
        sys.modules.pop(name, None)


def test_the_tables_of_the_readmes_are_those_of_the_recorded_results(recorder, tmp_path):
    results = json.loads((LENET / "results.json").read_text())
    for readme in READMES:
        copy = tmp_path / "README.md"
        copy.write_text(readme.read_text())
        for kind in recorder.tables.HEADERS:
            recorder.tables.write_table(copy, kind, results)
        assert copy.read_text() == readme.read_text()


def test_every_row_of_the_papers_table_was_recorded_with_its_spec_as_it_is_now(recorder):
    results = json.loads((LENET / "results.json").read_text())
    for name, row in results.items():
        if row["table"] == recorder.tables.PAPERS:
            assert row["epochs"] == recorder.epochs_of(recorder.read_spec(LENET / name))


def test_a_row_is_run_beside_magnitude_pruning_of_as_many_epochs(recorder, tmp_path):
    document = yaml.safe_load((LENET / "unstructured-71x.yaml").read_text())
    document["data"]["train"]["limit"], document["data"]["evaluate"]["limit"] = 640, 200
    document["schedule"].update(epochs=1, retrain=1)
    (tmp_path / "data").symlink_to(LENET / "data")
    (tmp_path / "row.yaml").write_text(yaml.safe_dump(document))
    row = recorder.beside_magnitude(tmp_path / "row.yaml", tmp_path, 1)
    sizes = {"conv1": 500, "conv2": 25_000, "fc1": 400_000, "fc2": 5_000}
    asked = sum(sizes[p["layers"]] * (1 - p["amount"]) for p in document["prune"])
    assert row["epochs"] == [1, 1]
    assert [run["seed"] for run in row["magnitude"]] == [0]
    for run in (*row["admm"], *row["magnitude"]):
        assert run["weights"] >= recorder.WEIGHTS / asked - 0.1
        assert run["parameters"] > 50
        assert 0 < run["accuracy"] < 1
    stages = {
        method: [
            (e["stage"], e["epoch"])
            for e in json.loads((tmp_path / f"row-{method}-0" / "report.json").read_text())[
                "history"
            ]
        ]
        for method in ("admm", "magnitude")
    }
    assert stages == {
        "admm": [("admm", 1), ("retrain", 2)],
        "magnitude": [("retrain", 1), ("retrain", 2)],
    }
    again = recorder.beside_magnitude(tmp_path / "row.yaml", tmp_path, 1)
    assert again["admm"] == row["admm"]
    line = recorder.tables.papers_row("row.yaml", row)
    assert line.count("|") == recorder.tables.HEADERS["papers"].split("\n")[0].count("|")


@pytest.mark.parametrize(
    ("sections", "epochs", "retrain"),
    [
        ({"prune": [{"structure": "channel", "amount": 0.5}]}, [4, 6], 10),
        ({"quantize": [{"weights": {"levels": "binary"}}]}, [3, 6], 9),
        (
            {
                "prune": [{"structure": "channel", "amount": 0.5}],
                "quantize": [{"weights": {"bits": 3}}],
            },
            [4, 6, 3, 6],
            9,
        ),
    ],
)
def test_the_baseline_trains_as_long(recorder, tmp_path, sections, epochs, retrain):
    document = yaml.safe_load((LENET / "unstructured-71x.yaml").read_text())
    document = {"version": 1, "data": document["data"], **sections}
    document["schedule"] = {"epochs": 4, "retrain": 6, "quantize": 3}
    (tmp_path / "row.yaml").write_text(yaml.safe_dump(document))
    spec = recorder.read_spec(tmp_path / "row.yaml")
    assert recorder.epochs_of(spec) == epochs
    assert f"schedule.retrain={retrain}" in recorder.baseline(spec)


def test_several_seeds_stand_as_mean_and_standard_deviation(recorder):
    assert recorder.tables.accuracies([0.99]) == "99.00 %"
    assert recorder.tables.accuracies([0.99, 0.992, 0.994]) == "99.20 ± 0.20 % (3)"
