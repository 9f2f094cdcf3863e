"""The command that records what forms of networks gain: on a tiny model, on the CPU."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from graphs import Builder

from onnxadmm.bench import available_providers
from onnxadmm.graph import model_bytes

SPEED = Path(__file__).resolve().parents[1] / "models" / "speed"
MODULES = ("record", "forms", "readme")
FORMS = ["float", "float16", "int8", "cut float", "cut float16", "cut int8"]


@pytest.fixture
def recorder(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(SPEED))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("record")
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(sys.modules["readme"], "README", tmp_path / "README.md")
    monkeypatch.setattr("onnxadmm.bench.comparison.LAUNCHES", 1)
    yield module
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def model(tmp_path):
    b = Builder(0, 2, 8)
    b.conv(16)
    b.activation("Relu")
    b.conv(16)
    b.head("flatten")
    path = tmp_path / "tiny.onnx"
    path.write_bytes(model_bytes(b.model()))
    return path


def test_all_forms_are_timed_and_recorded(recorder, model, tmp_path, monkeypatch):
    empty = "before\n<!-- written by record.py -->\n<!-- end of record.py -->\nafter\n"
    (tmp_path / "README.md").write_text(empty)
    command = ["record.py", "--network", str(model), "--provider", "cpu", "--batch-size", "2"]
    command += ["--rounds", "5", "--models", str(tmp_path / "models")]
    monkeypatch.setattr(sys, "argv", command)
    assert recorder.main() == 0
    stored = json.loads((tmp_path / "results.json").read_text())
    found = stored["tiny cpu 2"]["forms"]
    assert list(found) == sorted(FORMS)
    assert found["float"]["speedup"] is None
    assert found["cut float"]["file_bytes"] < found["float"]["file_bytes"]
    assert found["float16"]["file_bytes"] < found["float"]["file_bytes"]
    assert found["cut int8"]["speedup"][1] <= found["cut int8"]["speedup"][2]
    assert any("QLinear" in name or "QGemm" in name for name, _ in found["int8"]["slowest"])
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert len([line for line in text.splitlines() if line.startswith("| tiny")]) == 6


def test_without_the_provider_nothing_is_recorded(recorder, model, tmp_path, monkeypatch, capsys):
    if available_providers()["cuda"] is None:
        command = ["record.py", "--network", str(model), "--provider", "openvino"]
    else:
        command = ["record.py", "--network", str(model)]
    monkeypatch.setattr(sys, "argv", command)
    assert recorder.main() == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "results.json").exists()


def test_the_table_of_the_readme_is_that_of_the_results(recorder):
    text = (SPEED / "README.md").read_text()
    shown = text.split("<!-- written by record.py -->")[1].split("<!-- end of record.py -->")[0]
    store = SPEED / "results.json"
    known = json.loads(store.read_text()) if store.exists() else {}
    lines = [cells for key in sorted(known) for cells in recorder.rows(key, known[key])]
    assert shown.splitlines()[3:] == [f"| {' | '.join(cells)} |" for cells in lines]
