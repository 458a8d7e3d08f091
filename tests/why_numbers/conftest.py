"""What the suite says of one wrong output of a case."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

from mxmoe.conformance.bounds import Judged
from mxmoe.conformance.bounds import judge_rank
from mxmoe.conformance.case import Case
from mxmoe.conformance.compare_numbers import compare_numbers
from mxmoe.conformance.designed import make_case_data
from mxmoe.conformance.why_numbers.causes import why_lines
from mxmoe.reference.types import ARITHMETIC

_CLASS = ARITHMETIC["w4a16_fp32acc"]


@cache
def _judged(case: Case) -> Judged:
    data = make_case_data(case)
    return judge_rank(
        data.weights,
        data.config,
        data.hidden_states,
        data.routing,
        shard=case.shard,
        arithmetic=_CLASS,
    )


@pytest.fixture(scope="session")
def judged() -> Callable[[Case], Judged]:
    """Truth and allowed deviation of a case under bfloat16 weights and fp32 sums."""
    return _judged


@pytest.fixture(scope="session")
def why() -> Callable[[Case, torch.Tensor], str]:
    """The one line about the cause of a wrong output [t, h] of a case."""

    def line_of(case: Case, out: torch.Tensor) -> str:
        judged, data = _judged(case), make_case_data(case)
        worst = compare_numbers(
            out, judged.truth["combine"], judged.allowed["combine"]
        ).worst
        assert worst > 1, "the edit does not show"
        [line] = why_lines(case, data, judged, out, _CLASS, worst)
        return line

    return line_of
