"""Every check can fail: each planted fault is found by the check that must find it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace

import hypothesis
import pytest
import torch

from mxmoe.conformance import subject as subject_module
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.checks import test_against as against_checks
from mxmoe.conformance.faults.catalogue import FAULTS
from mxmoe.conformance.faults.fault import Fault
from mxmoe.conformance.faults.named import shows_in_bytes
from mxmoe.conformance.faults.plain import FLOAT32
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.trial import Outcome
from mxmoe.conformance.judging.trial import checks
from mxmoe.conformance.judging.trial import level_of
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.judging.trial import trial
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.types import Routing

OUTPUT = "test_output_stays_within_the_bound"
TACTICS = "test_every_tactic_stays_within_the_bound"

# What these do in a case depends on the cases before it.
REMEMBERING = {"act_params_stale", "weights_of_another_layer"}

pytestmark = pytest.mark.faults
faults = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)

# Every cause that shows in bytes and a third of the others by day, as each takes a
# second; all of them by night, and by `-m faults`.
_NUMBERS = [name for name, fault in FAULTS.items() if not shows_in_bytes(fault)]
_BY_NIGHT = set(_NUMBERS) - set(_NUMBERS[::3])
explained_faults = pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=pytest.mark.nightly if name in _BY_NIGHT else ())
        for name, fault in FAULTS.items()
    ],
    ids=FAULTS,
)


@pytest.fixture(scope="module")
def settings(truths_once: None) -> Iterator[Settings]:
    with repeatable_settings() as found:
        yield found


def what_is_said(outcome: Outcome) -> str:
    """Where, and the text without the command that repeats it."""
    *lines, repeat = outcome.text.splitlines()
    assert repeat.startswith("again  ")
    return "\n".join((outcome.where, *lines))


def found_in(fault: Fault, settings: Settings) -> list[Outcome]:
    """The failed outcomes, up to the one that says the last thing it must say."""
    failed: list[Outcome] = []
    for outcome in trial(fault.check, subject_of(fault.plant()), settings):
        failed += [outcome] if outcome.verdict.failed else []
        said = "\n".join(map(what_is_said, failed))
        if failed and all(words in said for words in fault.says):
            return failed
    assert failed, f"{fault.name} survived: {fault.definition}"
    raise AssertionError(f"expected {fault.says} in:\n{said}")


@explained_faults
def test_fault_is_found_and_named(fault: Fault, settings: Settings) -> None:
    found = found_in(fault, settings)
    assert {outcome.verdict for outcome in found} == {fault.verdict}
    headline, *_, repeat = found[-1].text.splitlines()
    assert headline.startswith("plain · ")
    start, _, only = repeat.partition(" -k ")
    assert start == "again  mxmoe check --candidate planted"
    word = found[-1].judge.record.case
    if word is None:
        place = f" and {found[-1].where}" if found[-1].where else ""
        assert only.strip("'") == fault.check + place
        return
    assert only.startswith(fault.check)
    assert repeat.endswith(f" --case {word}")
    assert str(parse_case(word)) == word
    if fault.name not in REMEMBERING:
        alone = replace(settings, case=parse_case(word))
        again = trial(fault.check, subject_of(fault.plant()), alone, explain=False)
        assert fault.verdict in {outcome.verdict for outcome in again}


def test_a_cause_that_is_not_said_is_missed(settings: Settings) -> None:
    fault = replace(FAULTS["drop_limit"], says=("no clamp", "down bias ignored"))
    with pytest.raises(AssertionError, match=r"expected .*down bias ignored"):
        found_in(fault, settings)


@faults
def test_fault_says_where_it_belongs(fault: Fault) -> None:
    assert level_of(fault.check) == fault.level
    assert re.fullmatch(r"[^\n]+\.", fault.definition)
    assert re.fullmatch(r"|[\w.-]+/[\w.-]+#\d+", fault.incident)


def test_every_check_has_a_fault_that_it_must_find() -> None:
    assert {fault.check for fault in FAULTS.values()} == set(checks())


def test_a_fault_can_be_judged_from_the_command_line() -> None:
    subject = load_candidate("mxmoe.conformance.faults.catalogue:drop_limit")
    assert subject.name == "plain"


def test_a_failing_case_shrinks_to_the_smallest(settings: Settings) -> None:
    """64 tokens fit, so the smallest case that fails has more in the hot set: 65."""
    everything = hypothesis.settings(
        hypothesis.settings.get_profile("trial"),
        phases=tuple(hypothesis.Phase),
        # Enough that some are beyond 64 tokens, whichever are drawn.
        max_examples=100,
    )
    hypothesis.settings.register_profile("shrinking", everything)
    hypothesis.settings.load_profile("shrinking")
    try:
        found = found_in(FAULTS["expert_capacity"], settings)
    finally:
        hypothesis.settings.load_profile("trial")
    assert found[0].judge.record.case == "e1k1h32i32/tp1r0/t65/s0"


def test_a_hang_is_a_timeout(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(p: object, x: object, routing: object, *, tactic: object = None):
        time.sleep(60)

    monkeypatch.setattr(subject_module, "CALL_SECONDS", 0.05)
    hanging = subject_of(changed(PLAIN, forward=forward))
    [outcome] = trial(OUTPUT, hanging, settings)
    assert outcome.verdict is Verdict.TIMEOUT
    assert "forward did not return in 0.05 s" in outcome.text


def test_a_fault_that_does_not_repeat_is_still_found(settings: Settings) -> None:
    calls = []

    def forward(p, x, routing: Routing, *, tactic: object = None) -> torch.Tensor:
        output = PLAIN.forward(p, x, routing)
        # Twice nothing is nothing: without tokens, or without experts for them.
        calls.extend([1] if output.any() else [])
        return output * (2 if len(calls) == 5 else 1)

    [outcome] = trial(OUTPUT, subject_of(changed(PLAIN, forward=forward)), settings)
    assert outcome.verdict is Verdict.MISMATCH


def test_a_wrong_tactic_is_not_blamed_on_the_pair(settings: Settings) -> None:
    [found] = found_in(FAULTS["one_tactic_wrong"], settings)
    assert "attribution" not in found.text


def judge_against(mine: object, theirs: object, settings: Settings) -> Judge:
    """A judge of `mine` with ``--against theirs``."""
    other = subject_of(changed(theirs, name="other"))
    return Judge(subject_of(mine), replace(settings, against=other), "against")


def test_candidates_of_two_classes_agree(settings: Settings) -> None:
    judge = judge_against(PLAIN, FLOAT32, settings)
    against_checks.test_prepared_bytes_equal_the_other_candidates(judge, 0)
    against_checks.test_output_agrees_with_the_other_candidates(judge)


@pytest.mark.parametrize("name", ["scales_one_high", "bias_in_another_row_order"])
def test_other_bytes_than_the_other_candidates_are_found(
    name: str, settings: Settings
) -> None:
    judge = judge_against(FAULTS[name].plant(), PLAIN, settings)
    with pytest.raises(Failure, match="other has 0x"):
        against_checks.test_prepared_bytes_equal_the_other_candidates(judge, 0)


@pytest.mark.parametrize("name", ["drop_bias_fc1", "routing_weights_ignored"])
def test_other_outputs_than_the_other_candidates_are_found(
    name: str, settings: Settings
) -> None:
    judge = judge_against(FAULTS[name].plant(), PLAIN, settings)
    with pytest.raises(Failure, match="output against other"):
        against_checks.test_output_agrees_with_the_other_candidates(judge)
