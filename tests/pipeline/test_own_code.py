"""Functions of the user's own: what they may be, that nothing runs unasked, and that only their file counts."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from graphs import Builder

from onnxadmm import compress
from onnxadmm.errors import CheckpointError, SpecError
from onnxadmm.pipeline.code import load_functions
from onnxadmm.progress import Silent
from onnxadmm.spec import parse_spec

OWN = """\
import torch

def focal(output, labels):
    chance = torch.log_softmax(output, 1).gather(1, labels[:, None])
    return -((1 - chance.exp()) ** 2 * chance).mean()

def towards(output, labels, original):
    assert labels is None
    return (output - original).square().mean()

def misses(output, labels):
    return (output.argmax(1) != labels).mean() * 100

def distance(output, labels, original):
    return abs(output - original).mean()
"""


def small_model(tmp_path):
    b = Builder(0, 2, 4)
    b.conv(6)
    b.activation("Relu")
    b.head("flatten")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 2, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=rng.integers(0, 5, 40))
    (tmp_path / "own.py").write_text(OWN)
    return b.model()


def spec(objective, labels=True, **kwargs):
    split = {"inputs": {"x": "data.npz"}, **({"labels": "data.npz#y"} if labels else {})}
    return {
        "version": 1,
        "data": {"train": split, "evaluate": dict(split), "batch_size": 8},
        "objective": objective,
        "prune": [{"structure": "channel", "amount": 0.5}],
        "schedule": {"epochs": 1, "retrain": 1},
        "benchmark": {"providers": []},
        **kwargs,
    }


def written(tmp_path, document):
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps(document))
    return path


class Listener(Silent):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def test_a_loss_and_a_metric_of_ones_own_train_are_measured_judged_and_said(tmp_path):
    model = small_model(tmp_path)
    document = spec(
        {"loss": "own.py:focal", "metric": "own.py:misses", "lower_is_better": True},
        gates={"max_drop": {"misses": 1000.0}},
    )
    listener = Listener()
    result = compress(model, written(tmp_path, document), allow_code=True, progress=listener)
    report = result.report
    assert report.history[-1].loss < 1.5
    assert 0 <= report.compressed.metrics["misses"] <= 100
    change = report.compressed.metrics["misses"] - report.original.metrics["misses"]
    assert [(g.name, g.value) for g in report.gates] == [("max_drop.misses", change)]
    said = [t for t in listener.said if "runs code" in t]
    assert [t.split(":")[0] for t in said] == [
        "objective.loss runs code",
        "objective.metric runs code",
    ]
    assert report.environment["code own.py:focal"] in said[0]


def test_a_loss_of_ones_own_may_need_no_labels(tmp_path):
    model = small_model(tmp_path)
    document = spec({"loss": "own.py:towards", "metric": "own.py:distance"}, labels=False)
    report = compress(model, written(tmp_path, document), allow_code=True).report
    assert report.original.metrics["distance"] == 0
    assert report.compressed.metrics["distance"] > 0
    document["objective"].pop("metric")
    report = compress(model, written(tmp_path, document), allow_code=True).report
    assert report.original.metrics["agreement"] == 1.0


@pytest.mark.parametrize("key", ["loss", "metric"])
def test_without_the_flag_nothing_runs_and_one_line_says_so(tmp_path, key):
    model = small_model(tmp_path)
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + OWN)
    with pytest.raises(SpecError, match=f"objective.{key}: 'own.py:focal' .*--allow-code"):
        compress(model, written(tmp_path, spec({key: "own.py:focal"})))
    assert not (tmp_path / "ran").exists()


def parsed(reference):
    return parse_spec(
        {
            "version": 1,
            "prune": [{"structure": "channel", "amount": 0.5}],
            "objective": {"loss": reference},
        }
    )


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("../outside.py:f", "holds '..'"),
        ("/tmp/outside.py:f", "not relative"),
        ("~/outside.py:f", "not relative"),
        ("link.py:f", "symlink"),
        ("linked/inner.py:f", "symlink"),
        ("hard.py:f", "hard link"),
        ("fifo.py:f", "FIFO"),
        ("folder.py:f", "directory"),
        ("missing.py:f", "No such file"),
        ("large.py:f", "larger than"),
        ("syntax.py:f", "line 2: SyntaxError"),
        ("raises.py:f", "line 3: ZeroDivisionError"),
        ("exits.py:f", "line 2: SystemExit"),
        ("good.py:g", "no function 'g'"),
        ("good.py:value", "no function 'value'"),
        ("good.py:one", "takes neither"),
        ("null.py:f", "null bytes|ValueError|SyntaxError"),
    ],
)
def test_only_plain_files_of_the_specs_folder_are_read(tmp_path, reference, reason):
    folder = tmp_path / "in"
    folder.mkdir()
    outside = tmp_path / "outside.py"
    outside.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f(a, b): pass\n")
    (folder / "link.py").symlink_to(outside)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "inner.py").write_text("def f(a, b): pass\n")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    os.link(outside, folder / "hard.py")
    os.mkfifo(folder / "fifo.py")
    (folder / "folder.py").mkdir()
    (folder / "large.py").write_bytes(b"#" * (1 << 20) + b"\n")
    (folder / "syntax.py").write_text("x = 1\ndef f(:\n")
    (folder / "raises.py").write_text("\n\n1 / 0\n")
    (folder / "exits.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "good.py").write_text("value = 1\ndef one(a): pass\ndef f(a, b): pass\n")
    (folder / "null.py").write_bytes(b"def f(a, b):\0 pass\n")
    with pytest.raises(SpecError, match=reason) as caught:
        load_functions(parsed(reference), folder, allow=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_file_below_the_specs_folder_is_read_once_for_both_keys(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "own.py").write_text("calls = []\ndef f(a, b): return calls\n")
    document = parsed("deep/own.py:f").model_dump(exclude_none=True)
    document["objective"]["metric"] = "deep/own.py:f"
    found = load_functions(parse_spec(document), tmp_path, allow=True)
    assert found["loss"](1, 2, 3) is found["metric"](1, 2, 3)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return 1.0", "objective.loss: own.py:f gave no tensor"),
        ("return output", "gave no tensor"),
        ("return output.sum().detach()", "gave no tensor"),
        ("raise RuntimeError('two\\nlines')", "line 2: RuntimeError: two lines"),
    ],
)
def test_a_loss_that_is_none_is_said_before_training(tmp_path, body, reason):
    model = small_model(tmp_path)
    (tmp_path / "own.py").write_text(f"def f(output, labels):\n    {body}\n")
    document = spec({"loss": "own.py:f"})
    with pytest.raises(SpecError, match=reason) as caught:
        compress(model, written(tmp_path, document), allow_code=True)
    assert "\n" not in str(caught.value)


def test_a_metric_that_is_no_number_is_said_before_training(tmp_path):
    model = small_model(tmp_path)
    (tmp_path / "own.py").write_text("def f(output, labels):\n    return 'good'\n")
    listener = Listener()
    with pytest.raises(SpecError, match="gave a str, neither a number"):
        compress(
            model,
            written(tmp_path, spec({"metric": "own.py:f"})),
            allow_code=True,
            progress=listener,
        )
    assert not [t for t in listener.said if "epoch" in t]


def test_a_run_whose_code_changed_is_not_resumed(tmp_path):
    model = small_model(tmp_path)
    path = written(tmp_path, spec({"loss": "own.py:focal"}))
    compress(model, path, output=tmp_path / "out", allow_code=True)
    (tmp_path / "own.py").write_text(OWN.replace("** 2", "** 3"))
    with pytest.raises(CheckpointError, match="the run's code is not the checkpoint's"):
        compress(model, path, output=tmp_path / "out", allow_code=True, resume=True)
