"""The reference entries: their rules, and the model that each is of."""

from __future__ import annotations

import pytest

from mxmoe.evals.gate.reference import find_reference
from mxmoe.evals.gate.reference import load_reference
from mxmoe.evals.gate.rule import Rule
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import MoEConfig


def shape(layers: int, experts: int) -> tuple[int, MoEConfig]:
    config = MoEConfig(hidden=2880, intermediate=2880, experts=experts, top_k=4)
    return layers, config


def test_gpt_oss_120b_passes_from_1149_of_1319_on() -> None:
    found = find_reference("gsm8k", shape=shape(36, 128))
    assert found.rule == Rule(1319, 1149)
    notation = found.notation()
    assert notation["threshold"] == pytest.approx(87.0975, abs=1e-4)
    assert notation["theta"] == pytest.approx(4.8411, abs=1e-4)
    assert (notation["reference"], notation["sigma"]) == (90.3, 50)
    assert (notation["alpha"], notation["beta"]) == (0.05, 0.2)


def test_gpt_oss_20b_has_a_reference_of_its_own() -> None:
    found = find_reference("gsm8k", shape=shape(24, 32))
    assert found.score == 85.0
    assert found.rule == load_reference("gsm8k-gpt-oss-20b").rule
    # ceil(1319 * (85 - 3.2025) / 100)
    assert found.rule == Rule(1319, 1079)


def test_a_model_without_a_score_needs_a_threshold() -> None:
    with pytest.raises(BadInput, match="a reference score or --threshold, found one"):
        find_reference("gsm8k", shape=shape(2, 8))
    found = find_reference("gsm8k", shape=shape(2, 8), threshold=87.1)
    assert found.rule == Rule(1319, 1149)
    assert found.baseline.tokens is None
    assert found.notation() == {"threshold": 87.1, "questions": 1319}


def test_a_task_without_an_entry_is_refused() -> None:
    for threshold in (None, 50.0):
        with pytest.raises(BadInput, match="a reference score or --threshold"):
            find_reference("mmlu", shape=shape(36, 128), threshold=threshold)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 100.5, float("nan")])
def test_a_threshold_that_judges_nothing_is_refused(threshold: float) -> None:
    found = find_reference("gsm8k", shape=shape(36, 128), threshold=threshold)
    with pytest.raises(BadInput, match="threshold: expected a number above 0"):
        _ = found.rule


@pytest.mark.parametrize("name", ["gsm8k-gpt-oss-120b", "gsm8k-gpt-oss-20b"])
def test_weights_that_nobody_hashed_are_free_and_nothing_else(name: str) -> None:
    found = load_reference(name)
    assert found.unfixed == ("model_sha256",)
    # Cut answers alone would take the score from the reference to the threshold.
    assert found.baseline.truncated == pytest.approx(
        (found.score - found.test.threshold) / 100, abs=1e-4
    )
