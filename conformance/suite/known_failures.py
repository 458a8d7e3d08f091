"""Tests of a run and the entries of the file of known failures that are about them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mxmoe.conformance.bundles.repetitions import words_of
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.suite.expected import XFAIL
from mxmoe.conformance.suite.expected import Entry
from mxmoe.conformance.suite.expected import Expected
from mxmoe.conformance.verdict import Verdict


def id_of(item: pytest.Item) -> str | None:
    """``candidate-check[-parameters][-place]``; None for a test that judges nobody."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return None
    parameters: dict[str, Any] = dict(item.callspec.params)
    if "_subject_and_place" not in parameters:
        return None
    subject, place = parameters["_subject_and_place"]
    words = [word for _, word in words_of(item.function, parameters)]
    return "-".join(filter(None, (subject.name, item.originalname, *words, place.id)))


def known_failure(expected: Expected | None, item: pytest.Item) -> Entry | None:
    """The entry about `item`, if there is one."""
    found = id_of(item)
    return None if expected is None or found is None else expected.find(found)


def as_expected(
    expected: Expected | None,
    item: pytest.Item,
    report: pytest.TestReport,
    line: VerdictLine,
) -> VerdictLine:
    """`line` where a failure was expected; that it passed instead is remembered."""
    entry = known_failure(expected, item)
    if entry is None or expected is None or entry.kind != XFAIL:
        return line
    if line.verdict.failed:
        report.outcome, report.wasxfail = "skipped", entry.reason()
        reason = f"{line.verdict}, {entry.reason()}"
        return replace(line, verdict=Verdict.EXPECTED_FAILURE, reason=reason)
    if line.verdict.judged:
        expected.unexpectedly_passed(entry, id_of(item) or "")
    return line
