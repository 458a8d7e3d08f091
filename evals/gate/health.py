"""Signs of a broken model that a score hides: read before and beside the score.

A model of NaN logits still answers: greedy decoding picks token 0, `!!!!`, and the
request succeeds. A permuted bias gives finite noise that still contains numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binom

from mxmoe.evals.gate.answer_lines import AnswerLine

# MLPerf's language model rules ask for 0.9 of the reference's tokens a sample; above,
# the same distance and as much again, since answers can grow without a fault.
SHORTEST, LONGEST = 0.9, 1.2
# As often as early evidence may err.
_CHANCE = 1e-3
# An answer counts as repetition when one word fills this share of it, and it has
# enough words that a short answer cannot.
_REPEATED, _ENOUGH_WORDS = 0.5, 12


@dataclass(frozen=True)
class Baseline:
    """What healthy runs of a protocol showed.

    tokens : of each question's answer, by question; None where no healthy run is
    known, and then lengths are not compared. truncated, repeating : shares of the
    answers.
    """

    tokens: tuple[int, ...] | None
    truncated: float = 0.0
    repeating: float = 0.0


def repeats(text: str) -> bool:
    """Whether one word, or one character of a text without spaces, is half of it."""
    words: Sequence[str] = text.split()
    if len(words) == 1:
        words = list(text)
    if len(words) < _ENOUGH_WORDS:
        return False
    return max(words.count(word) for word in set(words)) >= _REPEATED * len(words)


def complaints(answers: Sequence[AnswerLine], baseline: Baseline) -> list[str]:
    """One sentence a sign of broken numerics; empty for a healthy run.

    Shares count where so many are less likely than `_CHANCE` in healthy runs; lengths
    are compared on the questions that were answered.
    """
    if not answers:
        return ["no question was answered"]
    count = len(answers)
    broken = [line.question for line in answers if not line.finite]
    found = []
    if broken:
        found.append(
            f"{len(broken)} of {count} answers had logits that are not finite, "
            f"first question {broken[0]}"
        )
    cut = sum(line.finish_reason == "length" for line in answers)
    if too_many(cut, count, baseline.truncated, baseline):
        found.append(f"{cut} of {count} answers were cut at the output limit")
    same = sum(repeats(line.text) for line in answers)
    if too_many(same, count, baseline.repeating, baseline):
        found.append(f"{same} of {count} answers repeat one word")
    ratio = _length_ratio(answers, baseline)
    if not SHORTEST <= ratio <= LONGEST:
        found.append(
            f"answers have {ratio:.2f} times the tokens of healthy runs, "
            f"expected {SHORTEST} to {LONGEST}"
        )
    return found


def _length_ratio(answers: Sequence[AnswerLine], baseline: Baseline) -> float:
    if baseline.tokens is None:
        return 1.0
    healthy = sum(baseline.tokens[line.question] for line in answers)
    return sum(line.tokens for line in answers) / healthy


def too_many(seen: int, count: int, share: float, baseline: Baseline) -> bool:
    """Whether healthy runs show `seen` of `count` with a chance below `_CHANCE`."""
    # A share that was never seen may still be one question in all that were seen.
    expected = max(share, 1 / len(baseline.tokens or range(count)))
    return bool(binom.sf(seen - 1, count, expected) < _CHANCE)
