"""What a report says, before anybody decided how it looks.

Every channel (page, JSON, JUnit, Markdown) is made from one `Report`, so that none
knows more than another. All strings are as they came: each channel escapes for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from enum import StrEnum
from typing import Any


class Mark(StrEnum):
    """How a cell or a statement is to be taken; always said in words as well."""

    GOOD = "good"
    BAD = "bad"
    NOTE = "note"  # passes, or is known, with something to be aware of
    IDLE = "idle"  # nothing was judged
    NONE = "none"  # there is nothing to judge
    PLAIN = "plain"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """number : what the cell is sorted by; its text if None. code : as it was typed."""

    text: str
    mark: Mark = Mark.PLAIN
    number: float | None = None
    code: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """rows : as many cells each as there are columns; the first names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """says : what is seen, in words. svg : safe markup, made by `pictures` only."""

    title: str
    says: str
    svg: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FailureGroup:
    """Failures with one explanation, or one that was located.

    why : the explanation. text : what the first of them said, whole. checks : all of
    them, (check, case or "", bundle or ""), none if it was located. again : the
    command that repeats the first.
    """

    candidate: str
    level: str
    why: str
    text: str
    again: str
    bundle: str
    checks: tuple[tuple[str, str, str], ...]
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the report.

    count : what the table of contents says beside the title. details : tables that
    come after the pictures. fill : the command whose run would fill it, where it is
    empty.
    """

    key: str
    title: str
    count: str = ""
    mark: Mark = Mark.PLAIN
    says: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    details: tuple[Table, ...] = ()
    groups: tuple[FailureGroup, ...] = ()
    fill: str = ""

    @property
    def empty(self) -> bool:
        """Whether no run has anything to say here."""
        return not (self.says or self.tables or self.pictures or self.groups)


@dataclass(frozen=True, kw_only=True)
class LevelResult:
    """One level of one candidate. said : ``ok 40``, ``FAIL 2 of 9``, ``not run``."""

    level: str
    name: str
    said: str
    mark: Mark


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What can be said of one candidate, and on what grounds.

    answer : whether it can be trusted, in a few words. reason : why, in a sentence.
    facts : name and value: arithmetic class, layout, version and the like.
    """

    candidate: str
    answer: str
    mark: Mark
    reason: str
    levels: tuple[LevelResult, ...]
    facts: tuple[tuple[str, str], ...]
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One test case of the JUnit file. outcome : "ok", "failed" or "skipped"."""

    suite: str
    group: str
    name: str
    outcome: str
    message: str = ""
    text: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole report. runs : folder and verdict line of each run, as given."""

    title: str
    made: str
    version: str
    runs: tuple[tuple[str, str], ...]
    statements: tuple[Statement, ...]
    sections: tuple[Section, ...]
    cases: Sequence[Case]

    @property
    def mark(self) -> Mark:
        """The worst of the statements."""
        marks = {one.mark for one in self.statements}
        order = (Mark.BAD, Mark.IDLE, Mark.NOTE, Mark.GOOD)
        return next((mark for mark in order if mark in marks), Mark.IDLE)
