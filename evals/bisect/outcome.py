"""What a bisection comes to: the commit, the proof, and how it was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from enum import StrEnum
from typing import Any

from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.bisect.history import Commit
from mxmoe.evals.bisect.step_code import StepCode


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One commit and what the command said of it.

    role : see `step`; "again" for the culprit and its parents at the end. known : read
    from a run that was gone on with. found : what `mxmoe bisect-step` reports besides.
    """

    commit: Commit
    role: str
    code: StepCode
    seconds: float
    found: Mapping[str, Any] = field(default_factory=dict)
    known: bool = False

    @property
    def reason(self) -> str:
        """In the step's own words, if the command was one of ours."""
        return str(self.found.get("reason", ""))

    @property
    def flaky(self) -> bool:
        """Whether the step's runs disagreed."""
        return bool(self.found.get("flaky"))

    def as_json(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"code": int(self.code), "verdict": self.code.word}


class Result(StrEnum):
    """How a bisection ended."""

    FOUND = "found"  # and the culprit fails again, and its parents pass again
    UNCONFIRMED = "unconfirmed"  # judged again, the culprit or a parent differs
    AMBIGUOUS = "ambiguous"  # commits that cannot be tested hide it
    ENDS = "ends"  # they are not bad and good
    ABORTED = "aborted"

    @property
    def exit_code(self) -> ExitCode:
        """What `mxmoe bisect` exits with."""
        return _EXITS[self]


_EXITS = {
    Result.FOUND: ExitCode.PASS,
    Result.UNCONFIRMED: ExitCode.INCONCLUSIVE,
    Result.AMBIGUOUS: ExitCode.INCONCLUSIVE,
    Result.ENDS: ExitCode.INVALID,
    Result.ABORTED: ExitCode.INVALID,
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """culprits : one commit if it was found, several if it could be any of them."""

    result: Result
    said: str
    culprits: tuple[Commit, ...]
    judgements: tuple[Judgement, ...]
    log: str = ""

    @property
    def steps(self) -> int:
        """Commits that git chose."""
        return sum(judgement.role == "between" for judgement in self.judgements)

    def as_json(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "result": str(self.result),
            "said": self.said,
            "exit_code": int(self.result.exit_code),
            "culprits": [asdict(commit) for commit in self.culprits],
            "fault": self.fault,
            "steps": self.steps,
            "judgements": [judgement.as_json() for judgement in self.judgements],
            "log": self.log,
        }

    @property
    def fault(self) -> str:
        """What the bad commits show, in the words of the first of them."""
        shown = (j.reason for j in self.judgements if j.code is StepCode.BAD)
        return next((reason for reason in shown if reason), "")

    def lines(self) -> list[str]:
        """What a person reads at the end."""
        return [*self._culprit_lines(), *self._step_lines(), self.verdict_line()]

    def verdict_line(self) -> str:
        """The line that begins ``verdict:``."""
        return f"verdict: {self.result.upper()} {self.said}"

    def _culprit_lines(self) -> list[str]:
        lines = []
        if len(self.culprits) > 1:
            lines.append(f"the first bad commit is one of {len(self.culprits)}:")
            lines += [f"  {c.short} {c.subject}" for c in self.culprits]
        for commit in self.culprits if len(self.culprits) == 1 else ():
            lines += [
                f"first bad commit {commit.hash}",
                f"subject {commit.subject}",
                f"author  {commit.author}, {commit.date}",
            ]
        if self.fault and self.culprits:
            lines.append(f"fault   {self.fault}")
        return lines

    def _step_lines(self) -> list[str]:
        made = [j for j in self.judgements if not j.known]
        seconds = sum(j.seconds for j in made)
        lines = [
            f"judged  {self.steps} commits that git chose, {len(self.judgements)} in "
            f"all, in {seconds:.0f} s"
        ]
        skipped = [j for j in self.judgements if j.code is StepCode.SKIP]
        for judgement in skipped:
            reason = f": {judgement.reason}" if judgement.reason else ""
            lines.append(f"skipped {judgement.commit.short}{reason}")
        for judgement in self.judgements:
            if judgement.flaky and judgement.code is not StepCode.SKIP:
                lines.append(f"flaky   {judgement.commit.short}: {judgement.reason}")
        return lines
