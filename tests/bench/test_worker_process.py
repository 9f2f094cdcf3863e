"""A worker that dies, hangs or is orphaned costs one clear line, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from bench_models import endless, matmuls, rows

from onnxadmm.bench import Setting, wire
from onnxadmm.bench.process import WorkerProcess
from onnxadmm.bench.worker import settle
from onnxadmm.errors import DataError, ModelError, ResourceError

SETTING = Setting("cpu", 1, 1)
LIMIT_S = 60.0


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(matmuls(4))
    return path


@pytest.mark.parametrize(
    ("signal_number", "error", "message"),
    [
        (signal.SIGKILL, ResourceError, "'net'.*memory"),
        (signal.SIGSEGV, ModelError, "'net'.*SIGSEGV"),
    ],
)
def test_a_worker_that_dies_is_told_by_how(model, signal_number, error, message):
    with WorkerProcess("net", LIMIT_S) as worker:
        worker.open(model, SETTING)
        os.kill(worker.pid, signal_number)
        with pytest.raises(error, match=message) as caught:
            worker.warm(rows(1))
    assert "\n" not in str(caught.value)


def test_a_worker_that_hangs_is_given_up(tmp_path):
    path = tmp_path / "endless.onnx"
    path.write_bytes(endless())
    with WorkerProcess("net", LIMIT_S) as worker:
        worker.open(path, SETTING)
        worker._limit_s = 0.5
        with pytest.raises(ResourceError, match="'net': no answer"):
            worker.warm(rows(1))
        pid = worker.pid
    assert not psutil.pid_exists(pid)


def test_inputs_that_do_not_fit_are_told_and_survived(model):
    with WorkerProcess("net", LIMIT_S) as worker:
        worker.open(model, SETTING)
        with pytest.raises(DataError, match="net can't run on these inputs"):
            worker.warm(rows(1, width=5))
        warmth = worker.warm(rows(1))
        assert warmth.runs > 1
        assert warmth.first_ms > 0
        assert len(worker.time()) > 1


def test_an_idle_worker_uses_no_cpu(model):
    with WorkerProcess("net", LIMIT_S) as worker:
        worker.open(model, Setting("cpu", 64, 4))
        worker.warm(rows(64))
        process = psutil.Process(worker.pid)
        time.sleep(0.1)
        before = sum(process.cpu_times()[:2])
        time.sleep(0.5)
        assert sum(process.cpu_times()[:2]) - before <= 0.05


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_no_worker_outlives_its_parent(tmp_path):
    path = tmp_path / "endless.onnx"
    path.write_bytes(endless())
    code = (
        "import sys, threading, time\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from onnxadmm.bench import Setting\n"
        "from onnxadmm.bench.process import WorkerProcess\n"
        "worker = WorkerProcess('net', 600.0)\n"
        "worker.open(Path(sys.argv[1]), Setting('cpu', 1, 1))\n"
        "print(worker.pid, flush=True)\n"
        "worker.warm({'x': np.ones((1, 96), np.float32)})\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    with parent:
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker is still running"
        time.sleep(0.05)


def test_frames_carry_numbers_and_text_but_no_objects():
    arrays = {
        "f": np.ones((2, 3), np.float16),
        "t": np.array(["a", "é"], object),
        "u": np.array(["a", "é"]),
        "s": np.array(3),
    }
    sequence = [np.ones(2), np.zeros((0, 3)), [None, np.array(["x"], object)]]
    arrays["several"] = sequence
    frame = memoryview(wire.encode({"do": "warm"}, arrays))
    position = 0

    def read(size):
        nonlocal position
        position += size
        return bytes(frame[position - size : position])

    found = wire.decode(read)
    assert found.values == {"do": "warm"}
    assert position == len(frame)
    several = found.arrays.pop("several")
    assert several[2][0] is None
    for array, sent in (
        *((found.arrays[n], arrays[n]) for n in found.arrays),
        *zip((*several[:2], several[2][1]), (*sequence[:2], sequence[2][1]), strict=True),
    ):
        assert array.dtype == sent.dtype
        np.testing.assert_array_equal(array, sent)
    with pytest.raises(ValueError, match="objects"):
        wire.encode({}, {"x": np.array([{}, 1], object)})


def test_warming_up_waits_until_the_times_settle(monkeypatch):
    now = 0.0
    calls = 0

    def run():
        nonlocal now, calls
        calls += 1
        now += 0.001 if calls > 12 else 0.02

    monkeypatch.setattr("onnxadmm.bench.worker.time.perf_counter", lambda: now)
    found = settle(run)
    assert found.run_ms == pytest.approx(1.0)
    assert found.first_ms == pytest.approx(20.0)
    assert found.settled
    assert found.runs == calls > 20


def test_warming_up_ends_for_a_model_that_never_settles(monkeypatch):
    now, step = 0.0, 1.0

    def run():
        nonlocal now, step
        step *= 0.97
        now += step

    monkeypatch.setattr("onnxadmm.bench.worker.time.perf_counter", lambda: now)
    found = settle(run)
    assert found.run_ms > 0
    assert not found.settled
    assert now < 10
