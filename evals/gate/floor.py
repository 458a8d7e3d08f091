"""The score of no understanding: a program that repeats the question's last number.

It gets 2 % of GSM8K right, as many as gpt-oss-120b did with its biases in the wrong row
order (2.05 %). A score near it is no worse model but no model: broken numerics.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum

from scipy.stats import beta

from mxmoe.evals.gate.checked import between
from mxmoe.evals.gate.checked import whole
from mxmoe.reference.errors import BadInput

# Twice what the program scores, and above what broken kernels scored in public: 0,
# 1.1 and 1.6 % (vLLM issues 34706 and 33532), 2.05 % (TensorRT-LLM pull request 13867).
BROKEN_AT_MOST = 5  # percent

NUMBER = re.compile(r"(?:(?<!\d)-)?\d[\d,]*(?:\.\d+)?")  # in "5-7" the 7


class Cause(StrEnum):
    """What a failed gate suggests."""

    BROKEN_NUMERICS = "broken numerics"
    REGRESSION = "regression"


def likely_cause(correct: int, answered: int) -> Cause:
    """Of a run that failed with so many answers correct."""
    whole("answered", answered, at_least=1)
    whole("correct", correct, at_most=answered)
    broken = 100 * correct <= BROKEN_AT_MOST * answered
    return Cause.BROKEN_NUMERICS if broken else Cause.REGRESSION


def highest_accuracy(correct: int, answered: int, *, confidence: float = 0.95) -> float:
    """The accuracy that a score leaves possible, a share; Clopper and Pearson's.

    A gate that stops after a few answers knows the score badly: after 0 of 5 the
    accuracy may be 0.45 still.
    """
    whole("answered", answered, at_least=1)
    whole("correct", correct, at_most=answered)
    between("confidence", confidence, 0, 0.9999)
    if correct == answered:
        return 1.0
    return float(beta.ppf(confidence, correct + 1, answered - correct))


def last_number(text: str) -> Decimal | None:
    """The last number in `text`, without commas; None if it has none."""
    found = NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def count_echoed(questions: Sequence[str], gold: Sequence[str]) -> int:
    """How many questions end in the number that answers them.

    gold : the worked answers, or their numbers: the last number of each counts.
    Compared by value, 3.00 is 3: lm-eval's filter compares text and finds 28 of
    GSM8K's 1319, not 30. Raises `BadInput` for a gold answer without a number.
    """
    if len(questions) != len(gold):
        raise BadInput(
            f"gold answers: expected {len(questions)}, one a question, "
            f"found {len(gold)}"
        )
    count = 0
    for number, (question, answer) in enumerate(zip(questions, gold, strict=True)):
        expected = last_number(answer)
        if expected is None:
            raise BadInput(
                f"gold answer {number}: expected a number, found {answer[:80]!r}"
            )
        count += last_number(question) == expected
    return count
