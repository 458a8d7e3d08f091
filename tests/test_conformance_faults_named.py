"""The cause of nearly every planted fault is demanded, and where it is not, why.

That the demanded words are said is a test of each fault: test_conformance_faults.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mxmoe.conformance
from mxmoe.conformance.faults.catalogue import FAULTS
from mxmoe.conformance.faults.named import FEWEST_NAMED
from mxmoe.conformance.faults.named import PLACE_ONLY
from mxmoe.conformance.faults.named import names_cause
from mxmoe.conformance.faults.named import shows_in_bytes

BYTES = [fault for fault in FAULTS.values() if shows_in_bytes(fault)]
NUMBERS = [fault for fault in FAULTS.values() if not shows_in_bytes(fault)]
DOCS = Path(mxmoe.conformance.__file__).resolve().parents[1] / "docs"


def test_the_cause_of_every_fault_that_shows_in_bytes_is_demanded() -> None:
    assert len(BYTES) > 80
    assert [fault.name for fault in BYTES if not names_cause(fault)] == []


def test_the_cause_of_nearly_every_fault_in_numbers_is_demanded() -> None:
    named = sum(map(names_cause, NUMBERS))
    assert named >= FEWEST_NAMED * len(NUMBERS)


def test_each_fault_whose_cause_is_not_named_is_listed_with_the_reason() -> None:
    unnamed = {fault.name for fault in NUMBERS if not names_cause(fault)}
    assert unnamed == set(PLACE_ONLY)
    assert all(PLACE_ONLY.values())


def test_what_is_demanded_is_more_than_the_name_of_the_check() -> None:
    for fault in FAULTS.values():
        assert fault.says, fault.name
        assert not any(words in fault.check for words in fault.says), fault.name


@pytest.mark.parametrize(
    ("sentence", "faults"),
    [
        (r"all (\d+) faults that show in bytes", BYTES),
        (r"Of (\d+) that show in numbers only", NUMBERS),
        (r"the cause of (\d+) is demanded", [*filter(names_cause, NUMBERS)]),
    ],
)
def test_the_page_counts_them(sentence: str, faults: list[object]) -> None:
    page = (DOCS / "faults.md").read_text("utf-8")
    found = re.search(sentence, page)
    assert found is not None, sentence
    assert int(found[1]) == len(faults)
