"""The GitHub Action and the GitLab job: their own shell steps, run as a runner would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from graphs import Builder

from onnxadmm.graph import model_bytes

ROOT = Path(__file__).resolve().parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
JOB = yaml.safe_load((ROOT / "onnxadmm.gitlab-ci.yml").read_text(encoding="utf-8"))["onnxadmm"]

# Passes and fails by the size of the file alone.
GATES = [("10000000", 0, ""), ("10", 1, ""), ("10", 1, "a model.onnx")]
NAMES = ["passes", "fails", "benchmark fails"]


@pytest.fixture
def workspace(tmp_path):
    b = Builder(0, 2, 6)
    b.conv(8)
    b.head("flatten")
    (tmp_path / "a model.onnx").write_bytes(model_bytes(b.model()))
    tools = tmp_path / "bin"
    tools.mkdir()
    # What would talk to a server leaves what it was told.
    for name in ("gh", "curl"):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> "{tmp_path}/{name}.said"\n')
        tool.chmod(0o755)
    tool = tools / "onnxadmm"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onnxadmm_cli "$@"\n')
    tool.chmod(0o755)
    return tmp_path


def write_spec(folder, limit):
    spec = {
        "version": 1,
        "prune": [{"structure": "channel", "amount": 0.5}],
        "benchmark": {"providers": []},
        "gates": {"max_file_bytes": int(limit)},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))


def shell(script, workspace, **variables):
    environment = os.environ | {"PATH": f"{workspace / 'bin'}:{os.environ['PATH']}"} | variables
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=workspace,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def value_of(expression, values):
    """Evaluate `a`, or `a && 'b' || 'c'`."""
    parts = re.fullmatch(r"(\S+) && '(\w+)' \|\| '(\w+)'", expression)
    if parts is None:
        return values[expression]
    return parts[2] if values[parts[1]] else parts[3]


@pytest.mark.parametrize(("limit", "status", "baseline"), GATES, ids=NAMES)
def test_the_actions_steps_post_keep_and_judge(workspace, limit, status, baseline):
    write_spec(workspace, limit)
    name = "benchmark" if baseline else "report"
    outputs, summary = workspace / "outputs", workspace / "summary"
    outputs.touch()
    values = {
        "inputs.model": "a model.onnx",
        "inputs.spec": "spec.yaml",
        "inputs.baseline": baseline,
        "inputs.output": ACTION["inputs"]["output"]["default"],
        "inputs.install": "none",
        "inputs.token": "t",
        "github.action_path": str(ROOT),
        "github.repository": "o/r",
        "github.event.pull_request.number": "7",
    }
    ended = {}
    for step in ACTION["runs"]["steps"]:
        if "run" not in step:
            continue
        assert "${{" not in step["run"]  # a stranger's title must not become a command
        found = dict(line.split("=") for line in outputs.read_text().split())
        values["steps.run.outputs.status"] = found.get("status", "")
        variables = {
            key: re.sub(r"\$\{\{ (.+?) \}\}", lambda m: value_of(m[1], values), text)
            for key, text in step["env"].items()
        }
        done = shell(
            step["run"],
            workspace,
            GITHUB_OUTPUT=str(outputs),
            GITHUB_STEP_SUMMARY=str(summary),
            **variables,
        )
        ended[step["name"]] = done.returncode
        assert step["name"] == "verdict" or done.returncode == 0, done.stderr
    assert ended["verdict"] == status
    report = workspace / values["inputs.output"] / f"{name}.md"
    assert summary.read_text() == report.read_text()
    said = (workspace / "gh.said").read_text().split()
    assert said[:3] == ["pr", "comment", "7"]
    kept = next(s for s in ACTION["runs"]["steps"] if "uses" in s)
    assert f"{name}.*" in kept["with"]["path"]
    assert report.with_suffix(".html").exists()


def test_the_action_fails_with_the_status_of_a_run_that_never_was(workspace):
    outputs = workspace / "outputs"
    step = next(s for s in ACTION["runs"]["steps"] if s["name"] == "run")
    done = shell(
        step["run"],
        workspace,
        GITHUB_OUTPUT=str(outputs),
        MODEL="no",
        SPEC="no",
        OUTPUT="out",
        BASELINE="",
    )
    assert done.returncode == 0
    assert outputs.read_text() == "status=2\n"
    assert "error:" in done.stderr


@pytest.mark.parametrize(("limit", "status", "baseline"), GATES, ids=NAMES)
def test_the_gitlab_job_posts_keeps_and_judges(workspace, limit, status, baseline):
    write_spec(workspace, limit)
    name = "benchmark" if baseline else "report"
    variables = JOB["variables"] | {
        "MODEL": "a model.onnx",
        "BASELINE": baseline,
        "INSTALL": "none",
        "ONNXADMM_TOKEN": "t",
        "CI_API_V4_URL": "https://server/api",
        "CI_PROJECT_ID": "3",
        "CI_MERGE_REQUEST_IID": "5",
    }
    assert shell("\n".join(JOB["before_script"]), workspace, **variables).returncode == 0
    done = shell("\n".join(JOB["script"]), workspace, **variables)
    assert done.returncode == status, done.stderr
    assert shell("\n".join(JOB["after_script"]), workspace, **variables).returncode == 0
    said = (workspace / "curl.said").read_text()
    assert f"body@onnxadmm-result/{name}.md" in said
    assert "/projects/3/merge_requests/5/notes" in said
    listed = [
        p.replace("$OUTPUT", variables["OUTPUT"]) for p in JOB["artifacts"]["reports"]["junit"]
    ]
    (path,) = [p for p in listed if (workspace / p).exists()]
    assert ET.parse(workspace / path).getroot().get("failures") == str(status)
