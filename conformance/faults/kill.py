"""One planted fault, one seed, and the checks that find it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field

from mxmoe.conformance.faults.fault import Fault
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.trial import checks
from mxmoe.conformance.judging.trial import trial
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import NotJudged

CAUGHT, PASSED, IDLE = "caught", "passed", "not judged"


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What became of one fault.

    base : the candidate that it was planted in. checks : each check that was made, in
    that order: caught, passed or not judged. first : the check that caught it. seconds
    : until then. reason : why it could not be observed, where it was not.
    """

    fault: str
    base: str
    level: str
    seed: int
    checks: Mapping[str, str] = field(default_factory=dict)
    first: str | None = None
    seconds: float = 0.0
    reason: str = ""

    @property
    def survived(self) -> bool:
        """No check caught it, although the one that must was made."""
        return self.first is None and not self.reason


def planted_in(fault: Fault, base: Subject | None) -> Subject:
    """`base` with the fault where it can be in any candidate, else the fault's own.

    Raises `NotJudged` where `base` lacks the member that would be wrong.
    """
    if base is None or fault.spoil is None:
        return subject_of(fault.plant(), f"fault:{fault.name}")
    return subject_of(fault.spoil(base.candidate), base.spec)


def kill(
    fault: Fault,
    base: Subject | None,
    settings: Settings,
    *,
    seed: int = 0,
    full: bool = False,
) -> Kill:
    """Make the check that must find `fault`, then the others until one does.

    full : all checks, also after the fault was found.
    """
    name = "plain" if base is None or fault.spoil is None else base.name
    facts = {"fault": fault.name, "base": name, "level": fault.level, "seed": seed}
    found: dict[str, str] = {}
    first, seconds, start = None, 0.0, time.monotonic()
    for check in _in_order(fault.check):
        try:
            # A fresh one for each: some faults remember what they saw.
            found[check] = conclude(check, planted_in(fault, base), settings)
        except NotJudged as error:
            return Kill(**facts, reason=error.reason)
        if found[check] == CAUGHT and first is None:
            first, seconds = check, time.monotonic() - start
            if not full:
                break
    reason = ""
    if first is None and found[fault.check] == IDLE:
        reason = f"{fault.check} judges nothing of {name}"
    return Kill(**facts, checks=found, first=first, seconds=seconds, reason=reason)


def _in_order(expected: str) -> Sequence[str]:
    return [expected, *(check for check in checks() if check != expected)]


def conclude(check: str, subject: Subject, settings: Settings) -> str:
    """What `check` says of `subject`, up to the first failure."""
    judged = False
    for outcome in trial(check, subject, settings, explain=False):
        if outcome.verdict.failed:
            return CAUGHT
        judged = judged or outcome.verdict.judged
    return PASSED if judged else IDLE
