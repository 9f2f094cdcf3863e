"""What a person at a terminal, or a CI job, gets from each command."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import onnx.parser
import pytest
import yaml
from graphs import Builder

from onnxadmm.graph import model_bytes

QUICK = ["--set", "benchmark.providers=[]"]


def run(*arguments, cwd=None, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "onnxadmm_cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        check=False,
        **kwargs,
    )


def failed(result, status):
    """Assert one line of error and the exit status; return the line."""
    assert result.returncode == status, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "Traceback" not in result.stderr
    assert len(lines[0]) <= 300
    return lines[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli")
    b = Builder(5, 2, 6)
    b.conv(12)
    b.activation("Relu")
    b.conv(10)
    b.head("flatten")
    (path / "net.onnx").write_bytes(model_bytes(b.model()))
    rng = np.random.default_rng(0)
    np.savez(
        path / "d.npz",
        x=rng.standard_normal((256, 2, 6, 6)).astype(np.float32),
        y=rng.integers(0, 5, 256),
    )
    return path


def write_spec(path, **sections):
    document = {"version": 1, "prune": [{"structure": "channel", "amount": 0.5}], **sections}
    path.write_text(yaml.safe_dump(document))
    return path


def test_help_loads_neither_torch_nor_onnxruntime():
    code = (
        "import sys, onnxadmm_cli\n"
        "try: onnxadmm_cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnxruntime', 'onnx', 'numpy', 'pydantic', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("compress", "inspect", "benchmark", "check", "report", "init"):
        assert command in done.stdout


def test_help_answers_fast():
    run("--help")
    times = []
    for _ in range(5):
        started = time.perf_counter()
        assert run("--help").returncode == 0
        times.append(time.perf_counter() - started)
    assert sorted(times)[2] < 0.5


def test_init_writes_a_commented_spec_that_runs_as_it_is(folder, tmp_path):
    spec = tmp_path / "spec.yaml"
    made = run("init", folder / "net.onnx", "-o", spec)
    assert made.returncode == 0, made.stderr
    assert spec.read_text().count("#") > 10
    done = run("compress", folder / "net.onnx", "--spec", spec, "-o", tmp_path / "out", *QUICK)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.onnx").exists()
    assert "exists" in failed(run("init", folder / "net.onnx", "-o", spec), 2)
    assert run("init", folder / "net.onnx", "-o", spec, "--force").returncode == 0


def test_init_of_a_model_without_free_channels_asks_for_elements(tmp_path):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 64] x) => (float[N, 64] y) {
        y = MatMul(x, w)
    }"""
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "one.onnx")
    spec = tmp_path / "spec.yaml"
    made = run("init", tmp_path / "one.onnx", "-o", spec)
    assert made.returncode == 0, made.stderr
    assert "No channel can go: " in spec.read_text()
    done = run("compress", tmp_path / "one.onnx", "--spec", spec, "-o", tmp_path / "out", *QUICK)
    assert done.returncode == 0, done.stderr
    sizes = [p.stat().st_size for p in (tmp_path / "out" / "model.onnx", tmp_path / "one.onnx")]
    assert sizes[0] < 0.8 * sizes[1]


def test_init_of_a_model_without_weights_is_refused(tmp_path):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "none.onnx")
    spec = tmp_path / "spec.yaml"
    assert "no weights" in failed(run("init", tmp_path / "none.onnx", "-o", spec), 3)
    assert not spec.exists()


def test_compress_names_its_stages_and_ends_with_the_table(folder, tmp_path):
    spec = write_spec(
        folder / "train.yaml",
        data={"train": {"inputs": {"x": "d.npz"}, "labels": "d.npz"}, "batch_size": 32},
        schedule={"epochs": 1, "retrain": 1},
    )
    done = run("compress", folder / "net.onnx", "--spec", spec, "-o", tmp_path / "out", *QUICK)
    assert done.returncode == 0, done.stderr
    for word in (
        "[analyse]",
        "[train]",
        "[retrain]",
        "[prove]",
        "ρ",
        "primal",
        "dual",
    ):
        assert word in done.stderr
    # What the spec asks nothing of.
    for word in ("[quantize]", "[pack]", "[evaluate]", "[benchmark]"):
        assert word not in done.stderr
    for word in ("original", "compressed", "Parameters", "File size", "MACs"):
        assert word in done.stdout
    assert "\x1b[" not in done.stderr


def test_a_terminal_that_knows_no_greek_ends_no_run(folder, tmp_path):
    spec = write_spec(
        folder / "plain.yaml",
        data={"train": {"inputs": {"x": "d.npz"}, "labels": "d.npz"}, "batch_size": 64},
        schedule={"epochs": 1, "retrain": 0},
    )
    given = ("compress", folder / "net.onnx", "--spec", spec, "-o", tmp_path / "out", *QUICK)
    done = run(*given, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert ", ? " in done.stderr
    assert "wrote" in done.stdout


def test_the_default_output_folder_is_the_models_name(folder, tmp_path):
    (tmp_path / "m.onnx").write_bytes((folder / "net.onnx").read_bytes())
    spec = write_spec(tmp_path / "s.yaml")
    assert run("compress", "m.onnx", "--spec", spec, *QUICK, cwd=tmp_path).returncode == 0
    assert (tmp_path / "m-compressed" / "model.onnx").exists()


def test_a_failed_gate_exits_1_and_check_judges_it_again(folder, tmp_path):
    spec = write_spec(tmp_path / "s.yaml", gates={"max_file_bytes": 10})
    done = run("compress", folder / "net.onnx", "--spec", spec, "-o", tmp_path / "out", *QUICK)
    assert done.returncode == 1, done.stderr
    assert "FAILED  max_file_bytes" in done.stdout
    assert (tmp_path / "out" / "model.onnx").exists()
    report = tmp_path / "out" / "report.json"
    assert run("check", report).returncode == 1
    assert run("check", report, "--set", "gates.max_file_bytes=10000000").returncode == 0
    junit = tmp_path / "gates.xml"
    assert run("check", report, "--junit", junit).returncode == 1
    assert 'failures="1"' in junit.read_text()
    assert 'failures="1"' in (tmp_path / "out" / "report.xml").read_text()
    compared = run("report", tmp_path / "out", "-o", tmp_path / "compared")
    assert compared.returncode == 0, compared.stderr
    assert "original" in compared.stdout
    assert "comparison.html" in {p.name for p in (tmp_path / "compared").iterdir()}
    for width in (60, 160):  # columns go before a number is cut short
        told = run(
            *("report", tmp_path / "out", "-o", tmp_path / "again"),
            env=os.environ | {"COLUMNS": str(width)},
        )
        assert "compressed" in told.stdout
        assert "…" not in told.stdout
        assert ("MACs" in told.stdout) == (width == 160)
    looser = write_spec(tmp_path / "looser.yaml", gates={"min_compression": 1.5})
    assert run("check", report, "--spec", looser).returncode == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 1\nprune: [{structure: channel, amuont: 0.5}]", "did you mean 'amount'"),
        ("version: 1\nprune: [{structure: chanel, amount: 0.5}]", "did you mean 'channel'"),
        ("version: 1\nprune: [{structure: channel, amount: 2}]", "prune.0.amount"),
        ("", "empty"),
    ],
)
def test_a_bad_spec_exits_2(folder, tmp_path, text, words):
    (tmp_path / "s.yaml").write_text(text)
    done = run(
        "compress", folder / "net.onnx", "--spec", tmp_path / "s.yaml", "-o", tmp_path / "out"
    )
    assert words in failed(done, 2)
    assert not (tmp_path / "out").exists()


def test_a_bad_command_line_exits_2(folder):
    assert "--spec" in failed(run("compress", folder / "net.onnx"), 2)
    failed(run("compres"), 2)
    failed(run("benchmark", folder / "net.onnx", "--provider", "npu"), 2)


@pytest.mark.parametrize("command", [["inspect"], ["benchmark"], ["init", "-o", "nothing.yaml"]])
def test_a_bad_model_exits_3(tmp_path, command):
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x08not a model")
    failed(run(*command, "bad.onnx", cwd=tmp_path), 3)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.onnx"]


def test_an_output_that_cannot_be_written_exits_4(folder, tmp_path):
    spec = write_spec(tmp_path / "s.yaml")
    out = tmp_path / "no" / "such" / "folder"
    assert "does not exist" in failed(
        run("compress", folder / "net.onnx", "--spec", spec, "-o", out), 4
    )


def test_names_with_escapes_do_not_reach_the_terminal(tmp_path):
    done = run("inspect", tmp_path / "\x1b[31mred.onnx")
    assert "\x1b" not in failed(done, 3)


def test_inspect_prints_a_table_and_json(folder):
    table = run("inspect", folder / "net.onnx")
    assert table.returncode == 0, table.stderr
    assert "reaches the graph output" in " ".join(table.stdout.split())
    found = json.loads(run("inspect", folder / "net.onnx", "--json").stdout)
    sizes = {c["class"]: (c["size"], c["fixed"]) for c in found["classes"]}
    assert sorted(sizes.values()) == [(5, True), (7, False), (10, False), (12, False)]
    assert found["half"]["parameters"] < found["original"]["parameters"] * 0.6
    # The second convolution: 10 channels of 12 · 9 weights, a bias and 36 columns of the next layer.
    second = next(c for c in found["classes"] if c["size"] == 10)
    assert second["parameters_per_channel"] == 12 * 9 + 1 + 36 * 7
    assert second["macs_per_channel"] == 36 * 12 * 9 + 36 * 7
    assert "361" in " ".join(table.stdout.split())
    assert found["operators_without_rule"] == []


def test_inspect_warns_of_what_a_spec_will_not_gain(folder, tmp_path):
    spec = write_spec(tmp_path / "s.yaml", prune=[{"structure": "n_of_m", "amount": 0.5}])
    warned = run("inspect", folder / "net.onnx", "--spec", spec)
    assert warned.returncode == 0, warned.stderr
    assert "warning: n_of_m zeros bring no speed" in warned.stdout
    assert "n_of_m" not in run("inspect", folder / "net.onnx").stdout
    assert "--spec" in failed(run("inspect", folder / "net.onnx", "--set", "seed=1"), 2)


def test_inspect_puts_classes_that_are_alike_on_one_row(tmp_path):
    b = Builder(5, 2, 6)
    for _ in range(5):
        b.conv(4)
        b.conv(6)
    b.value = b.node("RandomUniformLike", b.value)
    (tmp_path / "net.onnx").write_bytes(model_bytes(b.model()))
    short = run("inspect", tmp_path / "net.onnx").stdout
    assert "4 × 6" in short or "4 × 4" in short
    assert "RandomUniformLike (1)" in short
    whole = run("inspect", tmp_path / "net.onnx", "--all").stdout
    layers = [n.name for n in b.nodes if n.op_type == "Conv"]
    assert all(layer in whole.split() for layer in layers)
    assert "×" not in whole


def test_benchmark_compares_models_in_pairs(folder, tmp_path):
    model, out = folder / "net.onnx", tmp_path / "out"
    done = run("benchmark", model, model, "--rounds", 5, "-o", out)
    assert done.returncode == 0, done.stderr
    assert "where the time goes" in done.stdout
    assert "Inputs: random" in done.stdout
    found = json.loads((out / "benchmark.json").read_text())
    assert found["inputs"] == "random"
    assert [m["name"] for m in found["models"]] == ["net.onnx", "net.onnx (2)"]
    speedup = found["models"][1]["ratios"]["speedup"]["cpu"]["1"]
    assert speedup["low"] <= speedup["ratio"] <= speedup["high"]
    assert found["models"][0]["facts"]["latency"]["cpu"]["profile"]["layers"]


def test_benchmark_judges_the_gates_of_a_spec(folder, tmp_path):
    spec = write_spec(
        folder / "timed.yaml",
        data={"train": {"inputs": {"x": "d.npz"}, "labels": "d.npz"}},
        benchmark={"providers": []},
        gates={"min_compression": 2.0},
    )
    model, out = folder / "net.onnx", tmp_path / "out"
    done = run("benchmark", model, model, "--spec", spec, "-o", out, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found == json.loads((out / "benchmark.json").read_text())
    assert found["inputs"] == "data"
    assert [g["passed"] for g in found["models"][1]["gates"]] == [False]
    assert run("check", out).returncode == 1
    assert "no gates" in run("check", out, "--spec", write_spec(tmp_path / "s.yaml")).stdout


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_saves_a_checkpoint_and_says_how_to_go_on(
    folder, tmp_path, sent, status
):
    spec = write_spec(
        folder / f"long{status}.yaml",
        data={"train": {"inputs": {"x": "d.npz"}, "labels": "d.npz"}, "batch_size": 1},
        schedule={"epochs": 2000},
    )
    out = tmp_path / "out"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "onnxadmm_cli",
            "compress",
            folder / "net.onnx",
            "--spec",
            spec,
            "-o",
            out,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    seen = []
    for line in process.stderr:
        seen.append(line)
        if "ADMM step 1, epoch 1:" in line:
            break
    process.send_signal(sent)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == status, "".join(seen) + rest
    assert "a checkpoint is saved; to go on: onnxadmm compress" in rest
    assert "--resume" in rest
    assert not (out / "model.onnx").exists()
    assert list((out / "checkpoints" / "admm").glob("*.safetensors"))
    assert not (out / ".lock").exists()


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_nothing_that_code_on_the_way_can_take_for_an_error(
    tmp_path, capsys, sent, status
):
    from onnxadmm_cli.failures import Main
    from onnxadmm_cli.interrupts import Signals

    group = Main()

    @group.command()
    def busy():
        # As libraries and stages do.
        with Signals(tmp_path), contextlib.suppress(Exception):
            signal.raise_signal(sent)

    with pytest.raises(SystemExit) as ended:
        group.main(["busy"])
    assert ended.value.code == status
    text = capsys.readouterr().err
    assert text.startswith(f"error: interrupted by {sent.name} before training; nothing was")
    assert text.count("\n") == 1


def test_a_signal_that_is_lost_in_a_finalizer_stops_the_run_at_its_next_stage(
    folder, tmp_path, monkeypatch
):
    """Python drops what is raised there, with a line on stderr."""
    from onnxadmm_cli.interrupts import Signals

    import onnxadmm
    from onnxadmm.errors import Interrupted
    from onnxadmm.progress import Silent

    class Finalized:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    class Listener(Silent):
        stages = ()

        def stage(self, name):
            self.stages += (name,)
            if name == "analyse":
                Finalized()

    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda given: lost.append(given.exc_type.__name__))
    listener = Listener()
    spec = {"version": 1, "prune": [{"structure": "channel", "amount": 0.5}]}
    with Signals(tmp_path) as signals, pytest.raises(Interrupted) as caught:
        onnxadmm.compress(folder / "net.onnx", spec, progress=listener, stop=signals)
    assert lost == ["Stopped"]
    assert caught.value.exit_code == 143
    assert listener.stages == ("analyse",)


def test_a_run_that_saves_no_checkpoint_promises_none_when_it_is_interrupted(tmp_path):
    from onnxadmm_cli.interrupts import Signals

    from onnxadmm.errors import Interrupted

    with (
        Signals(tmp_path, saves=False) as signals,
        pytest.raises(Interrupted) as caught,
        signals.deferred(),
    ):
        signal.raise_signal(signal.SIGINT)
    assert "nothing was written, run it again" in str(caught.value)
    assert "--resume" not in str(caught.value)
