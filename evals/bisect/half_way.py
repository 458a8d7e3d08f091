"""A score between two measured ends: what half way is, and whether there is one."""

from __future__ import annotations

from mxmoe.conformance.verdict import Verdict
from mxmoe.evals.bisect.lesson import Lesson
from mxmoe.evals.bisect.signature import Signature
from mxmoe.evals.bisect.step_code import Abort
from mxmoe.evals.gate.paired import mcnemar

CHECK = "score"
BELOW = "below half way between the ends"
# Of an exact McNemar test. Steps judge by half way, which lies as far from either end
# as half the drop: ends that differ by chance alone would send the search anywhere.
CHANCE = 1e-3


def below_half_way() -> Signature:
    """What a score on the bad side of half way is recognised by."""
    return Signature(verdict=Verdict.MISMATCH, check=CHECK, subject=CHECK, said=BELOW)


def check_ends_differ(lesson: Lesson) -> None:
    """Raise `Abort` unless the good end answers more of the same questions."""
    assert lesson.good_right is not None
    assert lesson.bad_right is not None
    good, bad = set(lesson.good_right), set(lesson.bad_right)
    chance, _ = mcnemar(len(good - bad), len(bad - good))
    if chance > CHANCE:
        raise Abort(
            f"the ends cannot be told apart: of {lesson.asked} questions the good one "
            f"answers {len(good)} and the bad one {len(bad)} correctly "
            f"(p = {chance:.2g}); ask more with --questions"
        )
