r"""The score of an answer, extracted as lm-eval's `strict-match` of GSM8K does it.

The first match of ``#### (\-?[0-9\.\,]+)`` counts, without commas and without a dot at
its end; no match is "[invalid]". Compared as text: "7.00" is not "7".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mxmoe.evals.grade_school.problem import Problem

STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
INVALID = "[invalid]"
# Tokens; the longest answer of the templates has about 130.
LONGEST_ANSWER = 160


def extract(text: str) -> str:
    """The number after the first "#### ", or `INVALID`."""
    found = STRICT.search(text)
    return found[1].replace(",", "").removesuffix(".") if found else INVALID


def is_correct(problem: Problem, text: str) -> bool:
    """Whether `text`, the model's completion, ends in the problem's number."""
    return extract(text) == extract(problem.answer)


def count_correct(problems: Iterable[Problem], texts: Iterable[str]) -> int:
    """How many of the completions are correct."""
    return sum(map(is_correct, problems, texts))
