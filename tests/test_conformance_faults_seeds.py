"""Each fault is found whatever is drawn: in 99 of 100 seeds, profile ci."""

from __future__ import annotations

import os

import pytest

from mxmoe.conformance.faults.catalogue import FAULTS
from mxmoe.conformance.faults.kill import Kill
from mxmoe.conformance.faults.kill import kill
from mxmoe.conformance.faults.matrix import survivors
from mxmoe.conformance.judging.trial import repeatable_settings

pytestmark = pytest.mark.nightly

SEEDS = int(os.environ.get("MXMOE_FAULT_SEEDS", "20"))


@pytest.fixture(scope="module")
def kills() -> list[Kill]:
    found = []
    for seed in range(SEEDS):
        with repeatable_settings(profile="ci", seed=seed) as settings:
            for fault in FAULTS.values():
                found.append(kill(fault, None, settings, seed=seed))
    return found


def test_no_fault_survives_in_more_than_a_hundredth_of_the_seeds(
    kills: list[Kill],
) -> None:
    assert len(kills) == SEEDS * len(FAULTS)
    assert not survivors(kills)


def test_the_check_that_must_find_it_does(kills: list[Kill]) -> None:
    for one in kills:
        assert one.first == FAULTS[one.fault].check, one
