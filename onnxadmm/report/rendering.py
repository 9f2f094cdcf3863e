"""All files of a report at once, as text; writing them is the pipeline's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxadmm.report.document import Report


def render_all(report: Report) -> dict[str, str]:
    """Return file name -> text of `report.json`, `.html`, `.md` and `.xml` (JUnit)."""
    # Templates and YAML aren't needed by who only judges a stored report.
    from onnxadmm.report.html import render_html
    from onnxadmm.report.junit import render_junit
    from onnxadmm.report.markdown import render_markdown

    return {
        "report.json": report.to_json(),
        "report.html": render_html(report),
        "report.md": render_markdown(report),
        "report.xml": render_junit(report.model, report.gates, report.verification),
    }
