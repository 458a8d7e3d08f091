"""From pytest's report of a check to its verdict line, and to what is printed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mxmoe.conformance.bundles.bundle import write_bundle
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.rundir import Measured
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged
from mxmoe.conformance.verdict import Verdict

JUDGE = pytest.StashKey[Judge]()
NOT_JUDGED = pytest.StashKey[NotJudged]()


def verdict_line(
    item: pytest.Item, report: pytest.TestReport, error: BaseException | None
) -> VerdictLine | None:
    """The verdict of one finished check, or None for a test that judges nobody."""
    judge = item.stash.get(JUDGE, None)
    level = item.get_closest_marker("level")
    if judge is None or level is None:
        return None
    verdict, reason, text = _conclude(item, judge, report, error)
    bundle = None
    if verdict.failed:
        text, bundle = _with_bundle(judge, text)
    return VerdictLine(
        check=f"{item.path.name}::{item.name}",
        candidate=judge.subject.name,
        level=level.args[0],
        verdict=verdict,
        reason=reason,
        text=text,
        case=judge.record.case,
        worst=judge.record.worst,
        measured=tuple(
            Measured(stage=stage, configuration=configuration, worst=worst)
            for (stage, configuration), worst in judge.record.measured.items()
        ),
        reached=judge.record.reached,
        examples=judge.record.examples or None,
        notes=tuple(judge.record.notes),
        seconds=round(report.duration, 3),
        bundle=bundle,
    )


def _conclude(
    item: pytest.Item,
    judge: Judge,
    report: pytest.TestReport,
    error: BaseException | None,
) -> tuple[Verdict, str, str]:
    if report.skipped:
        refusal = item.stash.get(NOT_JUDGED, None)
        if refusal is not None:
            return refusal.verdict, refusal.reason, ""
        return Verdict.NOT_RUN, str(error), ""
    if report.passed:
        if judge.record.notes:
            return Verdict.QUALITY_NOTE, "; ".join(judge.record.notes), ""
        return Verdict.OK, "", ""
    failures = list(_failures(error))
    if not failures:
        # Not the candidate's doing; the run ends as invalid.
        reason = f"the suite itself failed: {type(error).__name__}: {error}"
        return Verdict.NOT_RUN, reason, report.longreprtext
    text = judge.complete(failures[0]).text
    if failures[0] is not error:
        text += "\nnot repeatable: the same case passed when it was run again"
    return failures[0].verdict, text.splitlines()[0], text


def _failures(error: BaseException | None) -> Iterator[Failure]:
    """The failures in `error`; Hypothesis groups those that did not repeat."""
    if isinstance(error, Failure):
        yield error
    elif isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _failures(inner)
    elif error is not None and error.__cause__ is not None:
        yield from _failures(error.__cause__)


def _with_bundle(judge: Judge, text: str) -> tuple[str, str | None]:
    bundle = write_bundle(judge)
    if bundle is None:
        return text, None
    assert judge.settings.run is not None
    return f"{text}\nbundle {judge.settings.run.folder / bundle}", bundle
