"""A stored report, judged again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from onnxadmm.errors import InputError, one_line
from onnxadmm.report import Gate, Report, judge
from onnxadmm.spec import parse_spec, read_spec

MAX_BYTES = 64 << 20


def check(report: Path, spec: Path | None = None, overrides: Iterable[str] = ()) -> list[Gate]:
    """Judge a report's gates without running anything.

    Args:
        report: A report.json.
        spec: Whose gates to judge by; by default those of the spec that the report holds.
        overrides: `key=value` pairs over that spec.

    Raises:
        InputError: It is no report.
        SpecError: The spec is wrong.
    """
    document = read_report(report)
    wanted = read_spec(spec, overrides) if spec else parse_spec(document.spec, overrides)
    return judge(wanted.gates, document)


def read_report(report: Path) -> Report:
    """Read a report.json.

    Raises:
        InputError: It is none, or larger than 64 MiB.
    """
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
    return Report.from_json(content, name)
