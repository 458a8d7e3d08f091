"""A subject and a judge whose candidate lives in a child."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mxmoe.conformance.bundles.repetitions import Repetition
from mxmoe.conformance.bundles.repetitions import find_check
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.kept_inputs import CASE
from mxmoe.conformance.cases.kept_inputs import Source
from mxmoe.conformance.cases.search import Check
from mxmoe.conformance.isolation.host import Host
from mxmoe.conformance.isolation.messages import FAILED
from mxmoe.conformance.isolation.messages import NOT_JUDGED
from mxmoe.conformance.isolation.messages import PASSED
from mxmoe.conformance.isolation.messages import Question
from mxmoe.conformance.judging.experts_reached import Reached
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged
from mxmoe.conformance.verdict import Verdict

# A crash or a hang is shrunk as well, but each attempt that fails again costs a child.
LOST_PER_CHECK = 25


class CalledElsewhere(Exception):
    """The check calls the candidate outside a case: it belongs into the child."""


@dataclass(frozen=True, kw_only=True)
class IsolatedSubject(Subject):
    """The claims of a candidate; its members are called in the child only.

    away : what its `unavailable` said there.
    """

    host: Host
    away: str | None = None

    def call(self, member: str, *arguments: Any, **options: Any) -> Any:
        """Never here."""
        raise CalledElsewhere(f"{self.spec}: {member} is called in its own process")

    def unavailable(self) -> str | None:
        """What the child found."""
        return self.away


@dataclass(frozen=True)
class IsolatedJudge(Judge):
    """Draws and shrinks here, has every case judged in the child."""

    lost_before: int = 0

    @property
    def host(self) -> Host:
        """Who keeps the child of this subject."""
        assert isinstance(self.subject, IsolatedSubject)
        return self.subject.host

    def conduct(self, check: Check, case: Case) -> None:
        """Have one case judged; what crashes or hangs fails as anything else does."""
        # If the child dies over it: a child that answers says so itself.
        self.record.source = Source(CASE, str(case))
        self._ask(str(case))

    def whole_check(self) -> None:
        """Have the whole check made in the child."""
        self.record.examples += self._ask(None)

    def searched_enough(self) -> bool:
        """Whether the search has cost as many children as it may."""
        return self.host.losses.count - self.lost_before >= LOST_PER_CHECK

    def may_explain(self) -> bool:
        """The child has explained it: it makes the check of the one case."""
        return False

    def _ask(self, case: str | None) -> int:
        """Put the question, take over the answer; how many cases the child judged."""
        repetition = Repetition(
            check=self.check_name, parameters=self.parameters, place=self.place
        )
        searching = self.record.searching
        answer = self.host.ask(
            Question(repetition=repetition, case=case, searching=searching)
        )
        if answer.worst is not None:
            self.record.worst = max(answer.worst, self.record.worst or 0.0)
        for stage, configuration, worst in answer.measured:
            self.record.measure(stage, configuration, worst)
        self.record.reach(map(Reached.from_json, answer.reached))
        for note in answer.notes:
            self.note(note)
        if answer.outcome == PASSED:
            return answer.examples
        self.record.case = answer.case
        if answer.outcome == NOT_JUDGED:
            raise NotJudged(Verdict(answer.verdict), answer.text)
        if answer.outcome == FAILED:
            if answer.facts is not None:
                self.record.evidence = (dict(answer.facts), dict(answer.tensors))
            raise Failure(Verdict(answer.verdict), answer.text)
        raise RuntimeError(answer.text)


def judge_of(
    subject: Subject,
    settings: Settings,
    check: str,
    *,
    place: str,
    parameters: tuple[tuple[str, str], ...],
) -> Judge:
    """The judge of one repetition, in this process or in the candidate's own."""
    if not isinstance(subject, IsolatedSubject):
        return Judge(subject, settings, check, place=place, parameters=parameters)
    return IsolatedJudge(
        subject,
        settings,
        check,
        place=place,
        parameters=parameters,
        lost_before=subject.host.losses.count,
    )


def make_check(judge: Judge, arguments: Mapping[str, Any]) -> None:
    """Make the judge's check here, or where its candidate is; raises its outcome."""
    try:
        find_check(judge.check_name)(judge, **arguments)
    except CalledElsewhere:
        judge.whole_check()
