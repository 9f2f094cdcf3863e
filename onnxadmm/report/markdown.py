"""`report.md`: the report as a pull-request comment."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from onnxadmm.errors import one_line
from onnxadmm.report import formatting as fmt
from onnxadmm.report.summary import Row, comparison, headlines, packing, remarks, verdict

if TYPE_CHECKING:
    from onnxadmm.report.document import Report

# Names in a model are a stranger's: no markup, no links, no @mentions, no #references.
MARKUP = re.compile(r"([\\`*_{}\[\]|!~$])")
# GitHub would notify a person, or link an address or issue, that a model names.
ACTIVE = re.compile(r"(@|#|:(?=//)|www(?=\.))")
ZERO_WIDTH = "\N{ZERO WIDTH SPACE}"
MARKS = {"passed": "✅", "failed": "❌", "none": "ℹ️"}
MAX_LINES = 10
"""Beside the table."""


def render_markdown(report: Report) -> str:
    """Return the verdict, the headline numbers, the table, failed gates, the proof and remarks."""
    said = verdict(report)
    numbers = ", ".join(h.sentence + _where(h.detail, h.label) for h in headlines(report))
    lines = [
        f"### {MARKS[said.state]} {escape(one_line(report.model, 80))}: {escape(said.text)}",
        "",
        escape(numbers) + ".",
        "",
        *_table(report),
        "",
    ]
    failed = [f"❌ **{escape(g.name)}**: {escape(g.message)}" for g in report.gates if not g.passed]
    stored = packing(report)
    facts = [_proof(report), *([escape(stored)] if stored else [])]
    found = [f"⚠️ {escape(text)}" for text in remarks(report)]
    # The verdict, the numbers and the versions are lines too.
    room = MAX_LINES - 3 - len(facts)
    gates = shortened(failed, room, "❌ {} more failed; report.html has them")
    noted = shortened(found, room - len(gates), "⚠️ {} more in report.html")
    lines += [f"- {text}" for text in (*gates, *facts, *noted)]
    runtime = report.environment.get("onnxruntime")
    made = [f"onnxadmm {report.onnxadmm}"]
    made += [f"ONNX Runtime {runtime}"] if runtime is not None else []
    made += [f"seed {report.seed}"]
    made += [report.created] if report.created else []
    lines += ["", f"<sub>{escape(', '.join(made))}</sub>"]
    return "\n".join(lines) + "\n"


def shortened(lines: list[str], room: int, rest: str) -> list[str]:
    """Return as many lines as there is room for, the last one saying how many were left out."""
    if len(lines) <= room:
        return lines
    kept = max(0, room - 1)
    return [*lines[:kept], rest.format(len(lines) - kept)] if room > 0 else []


def escape(text: str) -> str:
    """Return one line of text that Markdown and GitHub show as it is."""
    line = one_line(text, 400).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = MARKUP.sub(r"\\\1", line)
    return ACTIVE.sub(lambda found: found[0] + ZERO_WIDTH, line)


def _table(report: Report) -> list[str]:
    rows = [row for row in comparison(report) if not row.minor]
    pruned = report.pruned is not None
    heads = ["", "original", *(["pruned"] if pruned else []), "compressed", "change"]
    lines = [_line(heads), _line(["---"] + ["---:"] * (len(heads) - 1))]
    for row in rows:
        cells = [row.original, *([row.pruned] if pruned else []), row.compressed]
        lines.append(_line([escape(c) for c in (row.label, *cells, _change(row))]))
    return lines


def _change(row: Row) -> str:
    return f"{row.change} ({row.interval})" if row.interval else row.change


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _where(detail: str, label: str) -> str:
    """Return where a speed was measured: ` (CPU, batch 1)`."""
    timed = label in {"faster", "slower"} or label.startswith("the speed")
    return f" ({detail.partition(';')[0]})" if timed else ""


def _proof(report: Report) -> str:
    facts = report.verification
    errors = [
        f"{name} {fmt.error(value)}" + (f" (tolerance {fmt.error(allowed)})" if allowed else "")
        for name, value, allowed in (
            ("cut against masked", facts.cut_vs_masked_max_error, facts.tolerance),
            ("import against ONNX Runtime", facts.import_max_error, facts.import_tolerance),
        )
        if value is not None
    ]
    state = "Proof passed" if facts.passed else "❌ **Proof failed**"
    if not errors:
        return state
    return f"{state}: largest error {', '.join(errors)}"
