"""What rules conclude about candidates, and how cells and totals follow from it."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from enum import StrEnum

SUITE = "mxmoe"
BOUND = "mxmoe_bound"
"""The suite's derived bound as a rule: one output against it, no other check."""


class Word(StrEnum):
    """What one rule says of one candidate on one set of data.

    A rejection counts as `CAUGHT` only where the same rule accepts the candidate
    without the fault on the same data. `UNSEEN`: the data give the same output, to the
    bit, with and without the fault.
    """

    CAUGHT = "caught"
    ACCEPTED = "accepted"
    UNSEEN = "unseen"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`data`: "own" (the rule's recipe), "designed", or "suite" (all its checks)."""

    subject: str
    rule: str
    data: str
    seed: int
    word: Word


@dataclass(frozen=True, kw_only=True)
class Result:
    """Everything that one run found.

    effects : for each fault that changes a designed output, the largest
    |change| / |output| over the designed layers, Euclidean; inf for NaN. silent : the
    faults that change none, or only raise. correct : the variants.
    """

    rules: tuple[str, ...]
    effects: Mapping[str, float]
    silent: tuple[str, ...]
    correct: tuple[str, ...]
    findings: tuple[Finding, ...]
    _cells: dict[tuple[str, str, str], list[Word]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for finding in self.findings:
            key = (finding.subject, finding.rule, finding.data)
            self._cells.setdefault(key, []).append(finding.word)

    def words(self, subject: str, rule: str, data: str) -> list[Word]:
        """One a seed; none where the rule was not asked."""
        return self._cells.get((subject, rule, data), [])

    def cell(self, subject: str, rule: str, data: str) -> str:
        """``caught``, ``accepted``, ``unseen``; ``caught 1/3`` if seeds differ."""
        words = self.words(subject, rule, data)
        if not words:
            return ""
        caught = words.count(Word.CAUGHT)
        if 0 < caught < len(words):
            return f"{Word.CAUGHT} {caught}/{len(words)}"
        if caught:
            return str(Word.CAUGHT)
        seen = Word.ACCEPTED in words
        return str(Word.ACCEPTED if seen else Word.UNSEEN)

    def caught(
        self, rule: str, data: str, subjects: Iterable[str] | None = None
    ) -> int:
        """How many of `subjects` (all faults) the rule catches with every seed."""
        faults = self.effects if subjects is None else subjects
        return sum(self.cell(f, rule, data) == Word.CAUGHT for f in faults)

    def alarms(self, rule: str, data: str) -> list[str]:
        """The correct variants that the rule rejects with some seed."""
        return [c for c in self.correct if Word.CAUGHT in self.words(c, rule, data)]

    def gross(self) -> list[str]:
        """The faults that change a designed output by `GROSS` of it or more."""
        return [name for name, effect in self.effects.items() if effect >= GROSS]


# Ten times the effect of rounding every slot to bfloat16 (2**-9 relative, each):
# nobody calls that arithmetic.
GROSS = 0.02
