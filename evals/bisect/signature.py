"""What a failure is recognised by: is it the fault we look for, or another one?

A search that takes every failure for the same one ends at the wrong commit. Two
failures are the same if

1. verdict, check and subject (what of the candidate the check looked at) are equal,
2. their first bad stages are equal, where both were observable,
3. and, if either was explained, they share a cause; if neither was, and either raised,
   they raised the same; else the shape of the damage is the same.

All of it is independent of the case, of the expert, row, token, column and rank: a
fault that moves to another expert in the next commit is still the same fault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import dataclass
from typing import Any

from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.suite.causes_said import CLOSE
from mxmoe.conformance.suite.causes_said import causes_said
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import STAGES

_COORDINATE = re.compile(r"\b(expert|row|token|column|layer|rank|block|slot)(s?) \d+")
# A factor that was fitted, and how far it is known: of the case as well.
_FITTED = re.compile(r"\S+ \(to within [^)]*\)")
_COORDINATES = re.compile(
    r"\b[ehikgtbn]=\d+|0x[0-9a-f]+|[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
)
_RAISED = re.compile(r"^(\w+) raised (\w+): (.*)$")
_DIED = re.compile(r"^the process died in .* \((.*)\)$")
_PART = re.compile(r"(\d+) of (\d+)")


@dataclass(frozen=True, kw_only=True)
class Signature:
    """One failure, without its coordinates.

    verdict : mismatch, nonfinite, crash or timeout. check : the check's function.
    subject : "output", "trace gate_up", a tensor's name, "prepare", ...
    stage : the first bad stage, None where it was not observable.
    damage : which rows and columns, e.g. "every row, some columns"; "" if not said.
    causes : what explains it, each as if it were alone; empty if nothing does.
    said : the first line, where there is no damage to describe.
    raised : "forward raised TypeError: ..." or how the process died; "" if it did not.
    """

    verdict: Verdict
    check: str
    subject: str
    stage: str | None = None
    damage: str = ""
    causes: tuple[str, ...] = ()
    raised: str = ""
    said: str = ""

    def same_fault(self, other: Signature) -> bool:
        """Whether both are the same failure by the rule at the top of this file."""
        mine, theirs = ((s.verdict, s.check, s.subject) for s in (self, other))
        if mine != theirs:
            return False
        if self.stage and other.stage and self.stage != other.stage:
            return False
        if self.causes or other.causes:
            return not set(self.causes).isdisjoint(other.causes)
        if self.raised or other.raised:
            return self.raised == other.raised
        return (self.damage, self.said) == (other.damage, other.said)

    def __str__(self) -> str:
        of = f" of {self.subject}" if self.subject not in ("", self.check) else ""
        words = [f"{self.check}: {self.verdict}{of}"]
        if self.stage:
            words.append(f"first bad stage {self.stage}")
        if self.causes:
            words.append(f"as if: {'; or '.join(self.causes)}")
        elif self.damage:
            words.append(f"damage: {self.damage}")
        return ", ".join([*words, *filter(None, (self.raised, self.said))])

    def as_json(self) -> dict[str, Any]:
        """For JSON; `from_json` reads it."""
        return asdict(self) | {"verdict": str(self.verdict)}


def from_json(found: Mapping[str, Any]) -> Signature:
    """The signature that `as_json` wrote; `BadInput` if it is none."""
    try:
        facts = {**found, "verdict": Verdict(found["verdict"])}
        return Signature(**{**facts, "causes": tuple(found["causes"])})
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"signature: expected one of ours, found {error}") from error


def signature_of(line: VerdictLine) -> Signature:
    """What a failed line of ``verdicts.jsonl`` is recognised by."""
    function = line.check.rpartition("::")[2].partition("[")[0]
    return read_text(line.text, verdict=line.verdict, check=function)


def read_text(text: str, *, verdict: Verdict, check: str) -> Signature:
    """The signature of a failure from what it says, as `judge.fail` composes it."""
    headline, *lines = text.splitlines() or [""]
    subject = _subject(headline)
    raised = _raised(lines)
    damage = "" if raised else _damage(lines)
    stage = subject.removeprefix("trace ") if subject.startswith("trace ") else None
    return Signature(
        verdict=verdict,
        check=check,
        subject=subject,
        stage=stage or _stage(lines),
        damage=damage,
        causes=_causes(lines),
        raised=raised,
        # Laws and states have no mask; their first line says what is wrong.
        said="" if damage or raised or not lines else _without_numbers(lines[0])[:120],
    )


def _subject(headline: str) -> str:
    parts = headline.split(" · ")
    return _without_numbers(parts[1]) if len(parts) > 1 else ""


def _stage(lines: list[str]) -> str | None:
    for line in lines:
        rest = line.removeprefix("first bad stage: ")
        name = rest.partition(",")[0]
        if rest != line and name in STAGES:
            return name
    return None


def _raised(lines: list[str]) -> str:
    for line in lines:
        found = _RAISED.match(line)
        if found is not None:
            member, kind, message = found.groups()
            return f"{member} raised {kind}: {_without_numbers(message)[:120]}"
        died = _DIED.match(line)
        if died is not None:
            return f"the process died ({died[1]})"
    return ""


def _damage(lines: list[str]) -> str:
    for line in lines:
        _, found, phrase = line.partition("damage: ")
        if found:
            return _shape(phrase)
        if "entries differ" in line:
            part = _PART.search(line)
            return "most entries" if part and _most(part) else "some entries"
    if any(CLOSE in line for line in lines):
        return CLOSE
    return ""


def _shape(phrase: str) -> str:
    """Rows and columns of the damage, from the phrase of `compare_numbers.damage`."""
    if phrase.startswith("a single element"):
        return "a single element"
    if phrase.startswith("trailing columns"):
        return "trailing columns"
    rows = "every row" if "every token" in phrase else "some rows"
    if "visit expert" in phrase:
        return "the rows of one expert"
    # A few right elements may be small enough for a wrong one to stay in its bound.
    part = re.search(r"in (\d+) of (\d+) columns", phrase)
    whole = part is None or _most(part)
    if phrase.startswith("scattered"):
        whole = False
    return f"{rows}, {'every column' if whole else 'some columns'}"


def _most(part: re.Match[str]) -> bool:
    return 2 * int(part[1]) > int(part[2])


def _causes(lines: list[str]) -> tuple[str, ...]:
    lines = [_FITTED.sub("#", line) for line in lines]
    return tuple(_COORDINATE.sub(r"\1\2 #", cause) for cause in causes_said(lines))


def _without_numbers(text: str) -> str:
    return _COORDINATES.sub("#", text)
