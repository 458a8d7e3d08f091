"""A report as JUnit XML: one suite a run, one case a check, fault or gate."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from mxmoe.conformance.escape import for_xml
from mxmoe.evals.report.document import Case
from mxmoe.evals.report.document import Report


def junit(report: Report) -> bytes:
    """The whole file, UTF-8."""
    suites: dict[str, list[Case]] = {}
    for case in report.cases:
        suites.setdefault(case.suite, []).append(case)
    root = ElementTree.Element("testsuites", {"name": "mxmoe", **_counts(report.cases)})
    for name, cases in suites.items():
        suite = ElementTree.SubElement(
            root, "testsuite", {"name": for_xml(name), **_counts(cases)}
        )
        for case in cases:
            _add(suite, case)
    found: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return found + b"\n"


def _add(suite: ElementTree.Element, case: Case) -> None:
    element = ElementTree.SubElement(
        suite,
        "testcase",
        classname=for_xml(case.group),
        name=for_xml(case.name),
        time=f"{case.seconds:.3f}",
    )
    if case.outcome == "ok":
        return
    kind = "failure" if case.outcome == "failed" else "skipped"
    told = ElementTree.SubElement(element, kind, message=for_xml(case.message))
    if case.text:
        told.text = for_xml(case.text)


def _counts(cases: Sequence[Case]) -> dict[str, str]:
    return {
        "tests": str(len(cases)),
        "failures": str(sum(case.outcome == "failed" for case in cases)),
        "errors": "0",
        "skipped": str(sum(case.outcome == "skipped" for case in cases)),
        "time": f"{sum(case.seconds for case in cases):.3f}",
    }
