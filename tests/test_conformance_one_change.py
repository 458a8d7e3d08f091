"""A failure says which single change of its case passes."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.faults.state import calling
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.judging.trial import trial
from mxmoe.conformance.settings import Settings

OUTPUT = "test_output_stays_within_the_bound"
SUM = "test_tensor_parallel_ranks_sum_to_the_whole"


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with repeatable_settings() as found:
        yield found


def wrong_where(holds: Callable[[Any, torch.Tensor, Any], bool]) -> object:
    """A right candidate whose output is doubled where `holds` says so."""

    def forward(p: Any, x: torch.Tensor, routing: Any) -> torch.Tensor:
        out = PLAIN.forward(p, x, routing)
        return out * 2 if holds(p, x, routing) else out

    return calling(PLAIN, forward)


def failing(
    candidate: object, word: str, settings: Settings, check: str = OUTPUT
) -> tuple[str, Judge]:
    asked = replace(settings, case=parse_case(word))
    [outcome] = trial(check, subject_of(candidate), asked)
    assert outcome.verdict.failed
    return outcome.text, outcome.judge


def passing(candidate: object, word: str, settings: Settings) -> str:
    text, _ = failing(candidate, word, settings)
    [said] = [x for x in text.splitlines() if x.startswith("passes ")] or [""]
    return said


@pytest.mark.parametrize(
    ("holds", "word", "said"),
    [
        pytest.param(
            lambda p, x, r: len(x) == 1,
            "e1k1h32i32/tp1r0/t1/s0",
            "passes with 2 or 33 tokens",
            id="tokens",
        ),
        pytest.param(
            lambda p, x, r: len(x) % 16 == 1,
            "e1k1h32i32/tp1r0/t17/s0",
            "passes with 2, 16 or 18 tokens (not 1, 33)",
            id="a tail of one token",
        ),
        pytest.param(
            lambda p, x, r: p.config.activation.name == "silu",
            "e1k1h32i32-silu/tp1r0/t3/s0",
            "passes with activation swiglu_oai",
            id="activation",
        ),
        pytest.param(
            lambda p, x, r: not p.config.has_bias,
            "e1k1h32i32-nobias/tp1r0/t3/s0",
            "passes with biases",
            id="biases",
        ),
        pytest.param(
            lambda p, x, r: not x.is_contiguous(),
            "e1k1h32i32/tp1r0/t3/s0/strided",
            "passes with 1 token (not 2, 4, 33); without strided",
            id="strides",
        ),
        pytest.param(
            lambda p, x, r: p.shard.tp_rank > 0,
            "e2k1h32i64/tp2r1-ep2r1/t3/s0",
            "passes as tp1r0, tp1r0-ep2r1 or tp2r0-ep2r1 (not tp2r1, tp2r1-ep2r0)",
            id="rank",
        ),
        pytest.param(
            lambda p, x, r: p.config.hidden % 64 > 0,
            "e1k1h96i32/tp1r0/t3/s0",
            "passes with hidden 64 or 128",
            id="hidden",
        ),
        pytest.param(
            lambda p, x, r: p.config.experts > 1 and p.config.top_k > 1,
            "e2k2h32i32/tp1r0/t3/s0",
            "passes with top-k 1",
            id="top-k",
        ),
        pytest.param(
            lambda p, x, r: float(x[0, 1]) > 0,
            "e1k1h32i32/tp1r0/t1/s1",
            "passes with other data, such as seed 2",
            id="data",
        ),
    ],
)
def test_the_change_that_passes_is_named(
    holds: Callable[[Any, torch.Tensor, Any], bool],
    word: str,
    said: str,
    settings: Settings,
) -> None:
    assert passing(wrong_where(holds), word, settings) == said


def test_nothing_passes_where_everything_is_wrong(settings: Settings) -> None:
    always = wrong_where(lambda p, x, r: True)
    assert passing(always, "e1k1h32i32/tp1r0/t3/s0", settings) == ""


def test_a_large_layer_is_not_tried_again(settings: Settings) -> None:
    large = wrong_where(lambda p, x, r: len(x) == 1)
    assert passing(large, "e2k2h512i512/tp1r0/t1/s0", settings) == ""


def test_ranks_that_are_summed_stay_the_ranks_that_they_are(settings: Settings) -> None:
    second = wrong_where(lambda p, x, r: p.shard.tp_rank == 1)
    text, _ = failing(second, "e1k1h32i64/tp2r0/t3/s0", settings, SUM)
    assert "passes as" not in text


def test_what_was_tried_leaves_nothing_in_the_record(settings: Settings) -> None:
    word = "e1k1h32i32/tp1r0/t1/s0"
    text, judge = failing(wrong_where(lambda p, x, r: len(x) == 1), word, settings)
    assert judge.record.evidence is not None
    facts, tensors = judge.record.evidence
    assert facts["case"] == word
    assert facts["text"] == text
    assert tensors["found"].shape == (1, 32)
    assert {where for _, where in judge.record.measured} <= {"e1k1h32i32/tp1r0"}
    *_, passes, again = text.splitlines()
    assert passes.startswith("passes ")
    assert again.startswith("again  ")


def only_first(key: Callable[[Any, torch.Tensor], object]) -> object:
    """A right candidate whose first output for each `key` is doubled."""
    seen = set[object]()

    def forward(p: Any, x: torch.Tensor, routing: Any) -> torch.Tensor:
        out = PLAIN.forward(p, x, routing)
        known = key(p, x) in seen
        seen.add(key(p, x))
        return out if known else out * 2

    return calling(PLAIN, forward)


@pytest.mark.parametrize("word", ["e1k1h32i32/tp1r0/t3/s0", "layer0/tp1r0/t3/s0"])
def test_a_first_call_that_is_wrong_is_told(word: str, settings: Settings) -> None:
    tuned = only_first(lambda p, x: x.shape)
    assert passing(tuned, word, settings) == (
        "passes when run again: only the first call with each number of tokens fails, "
        "as if it tuned, compiled or filled a cache on the live output"
    )


def test_a_failure_that_does_not_come_again_is_told(settings: Settings) -> None:
    once = only_first(lambda p, x: None)
    assert passing(once, "e1k1h32i32/tp1r0/t3/s0", settings) == (
        "passes when run again: a race, or what earlier calls left behind"
    )
