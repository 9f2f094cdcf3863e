"""A child that crashes, hangs or eats memory becomes one clear line."""

import subprocess
import sys

import pytest
from small_graphs import cnn

from onnxadmm.errors import ModelError, ResourceError
from onnxadmm.graph import run_limited, sandbox
from onnxadmm.graph.child import pack, unpack


def test_a_frame_survives():
    header, blobs = unpack(pack({"a": [1, "é"]}, [b"xy", b"", b"z"]))
    assert header == {"a": [1, "é"]}
    assert [bytes(b) for b in blobs] == [b"xy", b"", b"z"]


@pytest.mark.parametrize("cut", [1, 10, -1])
def test_a_cut_frame_is_refused(cut):
    with pytest.raises(ValueError):
        unpack(pack({"a": 1}, [b"xyz"])[:cut])


def test_a_task_answers():
    answer = run_limited("check", cnn().SerializeToString(), timeout_s=30, memory_bytes=sandbox.GIB)
    assert unpack(answer)[0] == {"error": ""}


def run_script(tmp_path, monkeypatch, body, **kwargs):
    script = tmp_path / "child.py"
    script.write_text(body)
    monkeypatch.setattr(sandbox, "_CHILD", script)
    limits = {"timeout_s": 20, "memory_bytes": 64 << 20, **kwargs}
    return run_limited("check", b"x" * 100_000, **limits)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("raise SystemExit(3)", "exit code 3"),
        ("pass", "exit code 0"),
    ],
)
def test_a_child_that_dies(tmp_path, monkeypatch, body, word):
    with pytest.raises(ModelError, match=word):
        run_script(tmp_path, monkeypatch, body)


def test_a_child_that_hangs_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "_PATIENCE", 1)
    with pytest.raises(ModelError, match="too long"):
        run_script(tmp_path, monkeypatch, "import time; time.sleep(60)", timeout_s=0.3)


def test_no_process_to_be_had(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(ResourceError, match="can't start"):
        run_limited("check", b"", timeout_s=1, memory_bytes=1 << 30)


def test_the_child_ends_with_its_parent(tmp_path):
    """The child waits for its payload; its parent is gone before sending any."""
    if sys.platform != "linux":
        pytest.skip("the kernel's death signal is Linux's")
    parent = (
        "import os, subprocess, sys\n"
        f"c = subprocess.Popen([sys.executable, '-I', {str(sandbox._CHILD)!r}, 'check', '1000000000',"
        " '30', str(os.getpid())], stdin=subprocess.PIPE, pass_fds=(3,))\n"
        "os.read(0, 1)\n"
    )
    import os

    reading, writing = os.pipe()
    # The child inherits the pipe's end as descriptor 3; it closes when the child is gone.
    shell = subprocess.Popen(
        ["/bin/sh", "-c", f'exec "{sys.executable}" -c "$0" 3>&{writing}', parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=(writing,),
    )
    os.close(writing)
    shell.kill()
    shell.wait()
    shell.stdin.close()
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b""


def test_importing_the_graph_loads_neither_torch_nor_onnxruntime():
    code = "import sys, onnxadmm.graph as g; print(sorted({'torch', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
