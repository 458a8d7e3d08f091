"""The faults seen in the field are all planted, or said to be none of ours and why."""

from __future__ import annotations

from pathlib import Path

from mxmoe.conformance.faults import correct
from mxmoe.conformance.faults.catalogue import FAULTS
from mxmoe.conformance.faults.field import APART
from mxmoe.conformance.faults.field import NEAR_EQUIVALENT
from mxmoe.conformance.faults.field import PLANTED

# 76 in its tables, and one more among its near-equivalents.
SEEN = 77


def test_every_fault_seen_in_the_field_is_planted_or_explained() -> None:
    assert not set(PLANTED) & set(APART)
    assert len(PLANTED) + len(APART) == SEEN


def test_each_names_faults_that_exist() -> None:
    for name, planted in PLANTED.items():
        assert planted, name
        assert set(planted) <= set(FAULTS), name
        assert any(FAULTS[fault].incident for fault in planted), name
    assert set(NEAR_EQUIVALENT) <= set(FAULTS)


def test_each_correct_variant_that_is_named_exists() -> None:
    text = Path(correct.__file__).read_text("utf-8")
    for reason in APART.values():
        _, _, name = reason.partition("`correct.")
        assert not name or f"def {name.partition('`')[0]}(" in text
