"""From verdict lines to the table candidate x level and the line ``verdict: ...``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.escape import printable
from mxmoe.conformance.judging.experts_reached import all_reached
from mxmoe.conformance.judging.experts_reached import united
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.rundir import json_number
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.suite.causes_said import said_most
from mxmoe.conformance.suite.session import Session
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verdict import Verdict

LEVELS = {
    "L0": "formats",
    "L1": "bytes",
    "L2": "routing",
    "L3": "numbers",
    "L4": "ranks",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One candidate at one level."""

    ok: int = 0
    failed: int = 0
    expected: int = 0
    idle: int = 0
    worst: float | None = None

    def __str__(self) -> str:
        if self.failed:
            return f"FAIL {self.failed} of {self.ok + self.failed}"
        counts = {"ok": self.ok, "xfail": self.expected}
        words = [f"{word} {count}" for word, count in counts.items() if count]
        if words:
            return ", ".join(words)
        return "not run" if self.idle else "-"


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What a run comes to."""

    exit_code: ExitCode
    line: str
    cells: dict[str, dict[str, Cell]]
    lines: Sequence[VerdictLine]

    def as_json(self) -> dict[str, Any]:
        """Per candidate and level: counts and the worst error / allowed."""
        return {
            name: {
                level: vars(cell) | {"worst": json_number(cell.worst)}
                for level, cell in row.items()
            }
            for name, row in self.cells.items()
        }


def conclude(
    session: Session,
    lines: Sequence[VerdictLine],
    pytest_code: int,
    folder: Path,
    *,
    left: int = 0,
) -> Conclusion:
    """Decide from the verdict lines; pytest's own code only tells of breakdowns.

    left : checks that the run did not come to.
    """
    cells = {s.name: _row(s.name, lines) for s in session.subjects}
    code, line = _decide(session, lines, pytest_code, folder)
    if left and code is ExitCode.FAIL:
        line += f"; stopped there, {left} more not run"
    return Conclusion(exit_code=code, line=f"verdict: {line}", cells=cells, lines=lines)


def _row(name: str, lines: Sequence[VerdictLine]) -> dict[str, Cell]:
    row = {}
    for level in LEVELS:
        mine = [v for v in lines if v.candidate == name and v.level == level]
        worst = [v.worst for v in mine if v.worst is not None]
        row[level] = Cell(
            ok=sum(v.verdict.judged and not v.verdict.failed for v in mine),
            failed=sum(v.verdict.failed for v in mine),
            expected=sum(v.verdict is Verdict.EXPECTED_FAILURE for v in mine),
            idle=sum(v.verdict in (Verdict.UNSUPPORTED, Verdict.NOT_RUN) for v in mine),
            worst=max(worst, default=None),
        )
    return row


def _decide(
    session: Session, lines: Sequence[VerdictLine], pytest_code: int, folder: Path
) -> tuple[ExitCode, str]:
    if pytest_code == pytest.ExitCode.INTERRUPTED:
        return ExitCode.INVALID, f"INVALID interrupted after {len(lines)} checks"
    if not lines and pytest_code == pytest.ExitCode.NO_TESTS_COLLECTED:
        return ExitCode.INVALID, "INVALID no check matches -m and -k"
    if pytest_code not in (
        pytest.ExitCode.OK,
        pytest.ExitCode.TESTS_FAILED,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    ):
        return (
            ExitCode.INVALID,
            f"INVALID the run broke down, see {folder / 'pytest.log'}",
        )
    failed = [v for v in lines if v.verdict.failed]
    if failed:
        names = ", ".join(dict.fromkeys(v.candidate for v in failed))
        judged = sum(v.verdict.judged for v in lines)
        return (
            ExitCode.FAIL,
            f"FAIL {names}: {len(failed)} of {judged} checks failed, "
            f"first {failed[0].check.partition('::')[2]}",
        )
    if session.expected is not None and session.expected.passed:
        count = len(session.expected.passed)
        return ExitCode.FAIL, f"FAIL {count} passed that {session.expected.path} knows"
    if pytest_code == pytest.ExitCode.TESTS_FAILED:
        return (
            ExitCode.INVALID,
            f"INVALID the suite failed, see {folder / 'pytest.log'}",
        )
    required = session.settings.required_class
    others = [
        s.name for s in session.subjects if required not in (None, s.arithmetic.name)
    ]
    if others:
        return ExitCode.FAIL, f"FAIL {', '.join(others)}: not of class {required}"
    passed = [s for s in session.subjects if _judged(s, lines)]
    idle = [s.name for s in session.subjects if s not in passed]
    if not passed:
        return ExitCode.INVALID, "INVALID none of the requested checks ran"
    if session.requested and idle:
        return ExitCode.INVALID, f"INVALID none of the checks of {', '.join(idle)} ran"
    names = ", ".join(f"{s.name} ({s.capabilities.described()})" for s in passed)
    levels = " ".join(
        level
        for level in LEVELS
        if any(v.level == level and v.verdict.judged for v in lines)
    )
    away = f"; not run: {', '.join(idle)}" if idle else ""
    return ExitCode.PASS, f"PASS {names} at {levels}{away}"


def _judged(subject: Subject, lines: Sequence[VerdictLine]) -> bool:
    return any(v.candidate == subject.name and v.verdict.judged for v in lines)


def print_summary(
    console: Console, session: Session, conclusion: Conclusion, folder: Path
) -> None:
    """Notes, what was not run and why, the table, the run directory, the verdict."""
    away = {s.name: s.unavailable() for s in session.subjects}
    for name, sentence in away.items():
        if sentence is not None:
            console.print(printable(f"not available: {name}: {sentence}"))
    for title, verdict in (
        ("quality note", Verdict.QUALITY_NOTE),
        ("expected failure", Verdict.EXPECTED_FAILURE),
        ("unsupported", Verdict.UNSUPPORTED),
        ("not run", Verdict.NOT_RUN),
    ):
        reasons = Counter(
            (v.candidate, v.level, note)
            for v in conclusion.lines
            if v.verdict is verdict and away[v.candidate] is None
            for note in (v.notes or (v.reason,))
        )
        for (name, level, reason), count in reasons.items():
            times = f" ({count} checks)" if count > 1 else ""
            text = f"{title}: {name} {level}: {reason}{times}"
            console.print(printable(text))
    for name, said in _unreached(conclusion.lines, session.settings.case):
        console.print(printable(f"experts reached: {name}: {said}"))
    if session.expected is not None:
        for title, sentences in (
            ("error", session.expected.passed),
            ("warning", session.expected.complaints),
        ):
            for sentence in sentences:
                console.print(printable(f"{title}: {sentence}"))
    here = [s for s in session.subjects if away[s.name] is None]
    if here:
        console.print(_table(here, conclusion))
    for sentence in said_most(conclusion.lines):
        console.print(printable(sentence))
    console.print(printable(f"run {folder}"))
    console.print(printable(conclusion.line))


def _unreached(
    lines: Sequence[VerdictLine], given: Case | None
) -> Iterator[tuple[str, str]]:
    """Right candidates of which some expert computed nothing that was judged.

    An expert of the checkpoint, or of the case that was asked for: those of drawn
    cases have random weights, and one is as good as another.
    """
    for name in dict.fromkeys(v.candidate for v in lines):
        mine = [v for v in lines if v.candidate == name]
        parts = united(part for v in mine for part in v.reached)
        gaps = [p for p in parts if p.missing and (given or not p.drawn)]
        if gaps and not any(v.verdict.failed for v in mine):
            yield name, all_reached(parts)


def _table(subjects: Sequence[Subject], conclusion: Conclusion) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("candidate", no_wrap=True)
    table.add_column("class", overflow="fold")  # wraps where space is short
    for level, name in LEVELS.items():
        table.add_column(f"{level}\n{name}", no_wrap=True)
    table.add_column("error/\nbound", justify="right", no_wrap=True)
    for subject in subjects:
        row = conclusion.cells[subject.name]
        worst = max(
            (c.worst for c in row.values() if c.worst is not None), default=None
        )
        table.add_row(
            Text(printable(subject.name)),
            subject.capabilities.described(),
            *(_styled(row[level]) for level in LEVELS),
            "-" if worst is None else f"{worst:.3g}",
        )
    return table


def _styled(cell: Cell) -> Text:
    style = "red bold" if cell.failed else "green" if cell.ok else "dim"
    return Text(str(cell), style=style)
