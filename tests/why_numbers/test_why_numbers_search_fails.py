"""A search for the cause that breaks leaves the failure that it was to explain."""

from __future__ import annotations

import pytest

from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.faults.catalogue import FAULTS
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging import numbers as judge_numbers
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict


def test_an_output_is_wrong_whatever_happens_to_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> list[str]:
        raise IndexError("index 2 is out of bounds")

    monkeypatch.setattr(judge_numbers, "why_lines", broken)
    with repeatable_settings() as settings:
        judge = Judge(subject_of(FAULTS["drop_limit"].plant()), settings, "check")
        with pytest.raises(Failure) as raised:
            judge.one(judge_numbers.judge_output, parse_case("e1k1h32i32/tp1r0/t9/s0"))
    assert raised.value.verdict is Verdict.MISMATCH
    assert "why    not searched to the end, a bug of mxmoe: IndexError" in str(
        raised.value.text
    )
