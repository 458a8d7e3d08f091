"""A candidate is given no shard without the padding rule that it declares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mxmoe.conformance.candidate import read_capabilities
from mxmoe.conformance.checks import test_against as against_checks
from mxmoe.conformance.faults.catalogue import FAULTS
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import claiming
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.judging.trial import trial
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.suite.handshake import shake_hands
from mxmoe.conformance.verdict import Failure
from mxmoe.reference.layouts import TRTLLM_GEN
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

CHECKS = (
    "test_output_stays_within_the_bound",
    "test_ranks_add_up_to_the_candidates_own_whole",
    "test_preparing_again_gives_the_same_bytes",
    "test_a_second_call_repeats_the_first",
)


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with repeatable_settings() as found:
        yield found


class Seen:
    """A correct candidate in a layout of its own that pads to 128, and its shards."""

    def __init__(self) -> None:
        self.shards: list[Shard] = []
        own = claiming(
            PLAIN, layout=None, alignment=128, shards=self.takes, tactics=self.tactics
        )
        self.candidate = changed(own, prepare=self.prepare, forward=self.forward)

    def takes(self, shard: Shard, config: MoEConfig) -> bool:
        self.shards.append(shard)
        return True

    def tactics(self, config: MoEConfig, tokens: int, shard: Shard) -> list[str]:
        self.shards.append(shard)
        return ["only"]

    def prepare(self, weights: Any, config: Any, shard: Shard, device: Any) -> Any:
        self.shards.append(shard)
        return PLAIN.prepare(weights, config, shard, device)

    def forward(self, p: Any, x: Any, routing: Any, *, tactic: object = None) -> Any:
        self.shards.append(p.shard)
        return PLAIN.forward(p, x, routing)

    def alignments(self) -> set[int]:
        return {shard.alignment for shard in self.shards}


def test_the_first_call_gives_the_padding_rule() -> None:
    seen = Seen()
    shake_hands(subject_of(seen.candidate))
    assert seen.alignments() == {128}


@pytest.mark.parametrize("check", CHECKS)
def test_every_call_of_a_check_gives_the_padding_rule(
    check: str, settings: Settings
) -> None:
    seen = Seen()
    outcomes = list(trial(check, subject_of(seen.candidate), settings))
    assert not any(outcome.verdict.failed for outcome in outcomes)
    assert seen.alignments() == {128}


def test_a_candidate_that_pads_otherwise_is_compared_where_lanes_are_the_same(
    settings: Settings,
) -> None:
    other = subject_of(claiming(PLAIN, layout=None, alignment=128))
    judge = Judge(subject_of(PLAIN), replace(settings, against=other), "against")
    against_checks.test_output_agrees_with_the_other_candidates(judge)
    wrong = subject_of(changed(FAULTS["routing_weights_ignored"].plant(), name="wrong"))
    judge = Judge(other, replace(settings, against=wrong), "against")
    with pytest.raises(Failure, match="output against wrong"):
        against_checks.test_output_agrees_with_the_other_candidates(judge)


def test_claims_about_shards_are_asked_with_the_padding_rule() -> None:
    seen = Seen()
    claims = read_capabilities(seen.candidate.capabilities, forward_only=False)
    config = MoEConfig(hidden=32, intermediate=224, experts=2, top_k=1)
    claims.refuses_shard(Shard(tp_size=2), config)
    claims.tactics_of(config, 1, Shard(tp_size=2))
    assert seen.alignments() == {128}


def test_a_loader_may_ask_its_shard_for_the_padded_lanes() -> None:
    """In a known layout the rule is the layout's: 224 lanes are 256."""
    asked = list[int]()

    def prepare(weights: Any, config: MoEConfig, shard: Shard, device: Any) -> Any:
        asked.append(shard.padded_intermediate(config) % 128)
        return TRTLLM_GEN.expected(weights, config, shard)

    claims = {"layout": TRTLLM_GEN.name, "arithmetic": "w4a16_fp32acc"}
    loader = changed(PLAIN, prepare=prepare, forward=None, capabilities=claims)
    shake_hands(subject_of(loader))
    assert asked == [0]
