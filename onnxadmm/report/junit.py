"""`report.xml`: the gates and the proof as JUnit test cases, which CI systems list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from onnxadmm.errors import one_line

if TYPE_CHECKING:
    from onnxadmm.report.document import Gate, Verification


def render_junit(model: str, gates: Sequence[Gate], proof: Verification | None = None) -> str:
    """Return one test suite: a case a gate, and one for the proof where there was one.

    A gate that was not measured is a failure like any other, of type `unmeasured`.
    """
    failed = sum(not g.passed for g in gates) + (proof is not None and not proof.passed)
    counts = {"tests": str(len(gates) + (proof is not None)), "failures": str(failed)}
    suites = ET.Element("testsuites", counts)
    name = f"onnxadmm {one_line(model, 80)}"
    suite = ET.SubElement(suites, "testsuite", {"name": name, **counts, "errors": "0"})
    for gate in gates:
        case = _case(suite, "gates", gate.name)
        if gate.passed:
            ET.SubElement(case, "system-out").text = one_line(gate.message, 400)
        else:
            _fail(case, "gate" if gate.value is not None else "unmeasured", gate.message)
    if proof is not None:
        case = _case(suite, "proof", "cut graph equals masked graph")
        if not proof.passed:
            _fail(case, "proof", "the compressed graph doesn't compute what was trained")
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'


def _case(suite: ET.Element, group: str, name: str) -> ET.Element:
    return ET.SubElement(
        suite, "testcase", {"classname": f"onnxadmm.{group}", "name": one_line(name, 120)}
    )


def _fail(case: ET.Element, kind: str, message: str) -> None:
    said = one_line(message, 400)
    ET.SubElement(case, "failure", {"type": kind, "message": said}).text = said
