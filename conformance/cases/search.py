"""Drawing cases, and shrinking one that fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from typing import Protocol

from hypothesis import given
from hypothesis import reject
from hypothesis import seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.profiles import SHRINK_SECONDS
from mxmoe.conformance.judging.record import Record
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged

Check = Callable[[Any, Case], None]
"""Judges one case with the judge that it is given: raises `Failure` if it is wrong."""


class Searching(Protocol):
    """What the search needs of a judge."""

    @property
    def settings(self) -> Settings:
        """Of the run."""

    @property
    def record(self) -> Record:
        """Of the check."""

    def one(self, check: Check, case: Case) -> None:
        """Judge one case."""

    def searched_enough(self) -> bool:
        """Whether the search for a smaller case costs too much, whatever its time."""


def search_smallest(
    judge: Searching,
    check: Check,
    strategy: st.SearchStrategy[Case],
    *,
    share: float,
    draws: float,
) -> None:
    """Judge drawn cases; `Failure` says what is wrong with the smallest bad one.

    share, draws : see `Judge.for_all`.
    """
    stop = time.monotonic() + share * judge.settings.seconds_per_check
    failing: list[Case] = []
    refused: list[Case] = []
    most = max(1, round(draws * hypothesis_settings().max_examples))

    @hypothesis_settings(max_examples=most)
    @given(strategy)
    def search(case: Case) -> None:
        nonlocal stop
        # Out of time: nothing new is judged. What failed must go on failing, as
        # Hypothesis runs the smallest failing case again at the end.
        over = time.monotonic() > stop or (failing and judge.searched_enough())
        if over and case not in (*failing, *refused):
            return
        try:
            judge.one(check, case)
        except Failure:
            if not failing:
                stop = time.monotonic() + SHRINK_SECONDS
            failing.append(case)
            raise
        except NotJudged:
            # The first refusal is that of the whole check, and is repeated as well.
            if case in refused or (judge.record.examples == 0 and not failing):
                refused.append(case)
                raise
            reject()

    if judge.settings.seed is not None:
        search = seed(judge.settings.seed)(search)
    unexplained = judge.record.searching
    judge.record.searching = True
    try:
        search()
    except (Failure, FlakyFailure) as error:
        failure = _failure_in(error)
        judge.record.searching = unexplained
        # Hypothesis ran the smallest last. Once more, and now to say why.
        judge.one(check, failing[-1])
        judge.record.case = str(failing[-1])
        note = "not repeatable: the same case passed when it was run again"
        raise Failure(failure.verdict, f"{failure.text}\n{note}") from failure
    finally:
        judge.record.searching = unexplained


def _failure_in(error: Failure | FlakyFailure) -> Failure:
    """The candidate's own, where Hypothesis saw it once and not again."""
    if isinstance(error, Failure):
        return error
    for inner in error.exceptions:
        if isinstance(inner, Failure):
            return inner
    raise error
