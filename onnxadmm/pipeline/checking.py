"""A stored report, judged again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from onnxadmm.errors import InputError, SpecError, one_line
from onnxadmm.report import Gate, Report, judge
from onnxadmm.report.benchmark import KIND, BenchmarkReport, judged
from onnxadmm.spec import Gates, parse_spec, read_spec

MAX_BYTES = 64 << 20


def check(report: Path, spec: Path | None = None, overrides: Iterable[str] = ()) -> list[Gate]:
    """Judge a report's gates without running anything.

    Args:
        report: A report.json or a benchmark.json, or the folder that holds one.
        spec: Whose gates to judge by; by default those that the report holds.
        overrides: `key=value` pairs over that spec.

    Raises:
        InputError: It is no report.
        SpecError: The spec is wrong.
    """
    name, content = _read(_inside(report))
    if _is_benchmark(content):
        found = BenchmarkReport.from_json(content, name)
        if spec is None and list(overrides):
            raise SpecError(
                "check: a benchmark.json holds no spec to set keys of; give one with --spec"
            )
        gates = read_spec(spec, overrides).gates if spec else _gates(found, name)
        return list(judged(found, gates).gates)
    document = Report.from_json(content, name)
    wanted = read_spec(spec, overrides) if spec else parse_spec(document.spec, overrides)
    return judge(wanted.gates, document)


def _inside(report: Path) -> Path:
    """Return the report of a folder; anything else as it is."""
    if not report.is_dir():
        return report
    there = [report / n for n in ("report.json", "benchmark.json") if (report / n).is_file()]
    return there[0] if there else report / "report.json"


def _is_benchmark(content: bytes) -> bool:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("kind") == KIND


def _gates(found: BenchmarkReport, name: str) -> Gates:
    try:
        return Gates.model_validate_json(json.dumps(found.spec.get("gates", {})))
    except ValidationError:
        raise InputError(f"report {name}: its gates are damaged; give one with --spec") from None


def read_report(report: Path) -> Report:
    """Read a report.json.

    Raises:
        InputError: It is none, or larger than 64 MiB.
    """
    name, content = _read(report)
    return Report.from_json(content, name)


def _read(report: Path) -> tuple[str, bytes]:
    """Return a file's name for messages, and its content."""
    name = one_line(report.name, 80)
    try:
        if not report.is_file():
            raise InputError(
                f"report {name}: no such file, or not a regular one; give a report.json"
            )
        if report.stat().st_size > MAX_BYTES:
            raise InputError(
                f"report {name}: larger than {MAX_BYTES >> 20} MiB; give a report.json"
            )
        content = report.read_bytes()
    except (OSError, ValueError) as e:
        raise InputError(f"report {name}: {one_line(e, 120)}; give a report.json") from None
    return name, content
