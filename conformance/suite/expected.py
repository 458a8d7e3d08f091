"""Failures that are known: skipped, or expected, with an issue and an end date.

A TOML file, given with ``--expected``:

    [[expected]]
    test = "my_kernel-test_hot_spot_stays_within_the_bound-cancellation"
    kind = "xfail"
    issue = "https://github.com/me/my_kernel/issues/7"
    expires = 2027-01-31

`test` is a test id, exact or a glob: candidate, check and, where the check is repeated,
its parameters and place, joined by ``-``; without the last part all of them. ``skip``
does not run the check, ``xfail`` runs it and expects it to fail.
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mxmoe.reference.errors import BadInput

SKIP, XFAIL = "skip", "xfail"
_FIELDS = ("test", "kind", "issue", "expires")
_LARGEST_FILE = 2**20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One known failure; `number` counts the file's entries from 1."""

    number: int
    test: str
    kind: str
    issue: str
    expires: datetime.date

    def matches(self, test_id: str) -> bool:
        """Whether this is about `test_id`, or about all repetitions of its check."""
        return fnmatchcase(test_id, self.test) or fnmatchcase(test_id, f"{self.test}-*")

    def reason(self) -> str:
        """What a summary shows."""
        return f"{self.kind}: {self.issue} (until {self.expires})"


@dataclass(kw_only=True)
class Expected:
    """The entries of a file, and what a run finds wrong with them.

    lenient : what would be an error is a warning. For bisecting, where a commit
    before the fault passes and one before the check does not have it.
    """

    path: Path
    entries: tuple[Entry, ...]
    lenient: bool
    complaints: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    refusal: BadInput | None = None

    def find(self, test_id: str) -> Entry | None:
        """The first entry about `test_id`."""
        return next((e for e in self.entries if e.matches(test_id)), None)

    def check_matched(self, test_ids: Iterable[str]) -> None:
        """`BadInput` for an entry that is about none of `test_ids`."""
        ids = tuple(test_ids)
        for entry in self.entries:
            if not any(entry.matches(test_id) for test_id in ids):
                self._complain(
                    entry,
                    "expected to match a test of this run, found none: correct or "
                    "remove it",
                )

    def check_dates(self, today: datetime.date) -> None:
        """`BadInput` for an entry that has expired."""
        for entry in self.entries:
            if entry.expires < today:
                self._complain(
                    entry,
                    f"expected to be over by {entry.expires}, which has passed: "
                    "remove it, or look at the issue and move the date",
                )

    def unexpectedly_passed(self, entry: Entry, test_id: str) -> None:
        """Remember that `test_id` passed although `entry` expects a failure."""
        sentence = self._about(
            entry, f"expected {test_id} to fail, and it passed: remove the entry"
        )
        (self.complaints if self.lenient else self.passed).append(sentence)

    def _complain(self, entry: Entry, what: str) -> None:
        sentence = self._about(entry, what)
        if not self.lenient:
            self.refusal = BadInput(sentence)
            raise self.refusal
        self.complaints.append(sentence)

    def _about(self, entry: Entry, what: str) -> str:
        return f"{self.path}: entry {entry.number} ({entry.test}): {what}"


def read_expected(path: Path, *, lenient: bool = False) -> Expected:
    """Read the file; `BadInput` names the entry and what to change."""
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE + 1)
        if len(text) > _LARGEST_FILE:
            raise BadInput(f"{path}: expected at most {_LARGEST_FILE} bytes")
        found = tomllib.loads(text.decode("utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: expected a TOML file, {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: expected TOML, found {error}") from error
    if set(found) - {"expected"} or not isinstance(found.get("expected", []), list):
        raise BadInput(
            f"{path}: expected tables [[expected]] only, found {', '.join(found)}"
        )
    entries = tuple(
        _entry(given, number, f"{path}: entry {number}")
        for number, given in enumerate(found.get("expected", []), start=1)
    )
    return Expected(path=path, entries=entries, lenient=lenient)


def _entry(given: Any, number: int, where: str) -> Entry:
    if not isinstance(given, dict):
        raise BadInput(f"{where}: expected a table, found {given!r:.80}")
    where = f"{where} ({given['test']})" if "test" in given else where
    for name in _FIELDS:
        if name not in given:
            raise BadInput(f"{where}: expected {name}, found none: add it")
    unknown = [name for name in given if name not in _FIELDS]
    if unknown:
        raise BadInput(
            f"{where}: expected {', '.join(_FIELDS)} only, found {unknown[0]}"
        )
    test, kind, issue, expires = (given[name] for name in _FIELDS)
    if not isinstance(test, str) or not test:
        raise BadInput(f"{where}: test: expected a test id, found {test!r:.80}")
    if kind not in (SKIP, XFAIL):
        raise BadInput(f"{where}: kind: expected skip or xfail, found {kind!r:.80}")
    if not isinstance(issue, str) or not issue.startswith(("https://", "http://")):
        raise BadInput(f"{where}: issue: expected a link, found {issue!r:.80}")
    # A date-time is a date to Python; here the day counts.
    if not isinstance(expires, datetime.date) or isinstance(expires, datetime.datetime):
        raise BadInput(
            f"{where}: expires: expected a date like 2027-01-31, found {expires!r:.80}"
        )
    return Entry(number=number, test=test, kind=kind, issue=issue, expires=expires)
