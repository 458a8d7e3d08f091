"""No check fails a correct candidate, however it computes and whatever it exposes."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mxmoe.conformance.checks import test_l3_numbers as number_checks
from mxmoe.conformance.faults.correct import FORMS
from mxmoe.conformance.faults.correct import NUMERIC
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging import tokens as judge_tokens
from mxmoe.conformance.judging.trial import Outcome
from mxmoe.conformance.judging.trial import checks
from mxmoe.conformance.judging.trial import level_of
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.judging.trial import trial
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Verdict

HOT_SPOT = "test_hot_spot_stays_within_the_bound"
GPT_OSS_BYTES = "test_gpt_oss_bytes_match_the_layout"

# The other variants are judged by every check each night; by output and structure they
# are judged each day as well (test_conformance_clean_cases.py).
DAILY = {
    "plain",
    "split_k",
    "matrix_unit",
    "fast_exp_high",
    "bf16_slots",
    "fp32",
    "fp32_split_k",
    "forward_only",
    "prepare_only",
    "own_layout",
    "no_claims",
    "routing_object",
    "ascending_route",
    "trace_object",
    "views",
    "tactics",
}

AS_MODULE = """
from mxmoe.conformance.faults.plain import PLAIN
capabilities = PLAIN.capabilities
prepare, forward = PLAIN.prepare, PLAIN.forward
"""
AS_CLASS = """
from mxmoe.conformance.faults.plain import PLAIN
class candidate:
    name = "a class"
    prepare = staticmethod(PLAIN.prepare)
    forward = staticmethod(PLAIN.forward)
"""


@pytest.fixture(scope="module")
def settings(truths_once: None) -> Iterator[Settings]:
    with (
        repeatable_settings(layers=(0,), examples=3) as found,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(number_checks, "EXAMPLES", number_checks.EXAMPLES[:2])
        patch.setattr(number_checks, "GAIN_EXAMPLES", ())
        patch.setattr(judge_tokens, "TOKEN_COUNTS", (1, 4, 33))
        yield found


def by_day(names: Iterable[str]) -> list[Any]:
    return [
        pytest.param(name, marks=[] if name in DAILY else pytest.mark.nightly)
        for name in names
    ]


def outcomes(
    subject: Subject, settings: Settings, *levels: str, but: tuple[str, ...] = ()
) -> list[Outcome]:
    return [
        outcome
        for check in checks()
        if level_of(check) in levels and check not in but
        for outcome in trial(check, subject, settings)
    ]


def alarms(found: list[Outcome]) -> list[str]:
    return [outcome.text for outcome in found if outcome.verdict.failed]


@pytest.mark.parametrize("name", by_day(NUMERIC))
def test_honest_arithmetic_passes_every_check(name: str, settings: Settings) -> None:
    """Except for routing, which is the same; hot spots are among the pairs below."""
    found = outcomes(subject_of(NUMERIC[name]), settings, "L3", but=(HOT_SPOT,))
    assert not alarms(found)


@pytest.mark.parametrize("name", by_day(FORMS))
def test_every_form_of_a_candidate_passes(name: str, settings: Settings) -> None:
    """Byte checks of gpt-oss width see the same code as the small ones."""
    subject = subject_of(FORMS[name])
    left_out = (HOT_SPOT, GPT_OSS_BYTES)
    found = outcomes(subject, settings, "L1", "L2", "L3", but=left_out)
    assert not alarms(found)
    assert Verdict.OK in {outcome.verdict for outcome in found}


@pytest.mark.parametrize("name", ["torch_dense", "hf_experts"])
def test_bundled_candidates_pass(name: str, settings: Settings) -> None:
    subject = load_candidate(name)
    if subject.unavailable():
        pytest.skip(str(subject.unavailable()))
    assert not alarms(outcomes(subject, settings, "L0", "L1", "L2", "L3"))


@pytest.mark.parametrize(
    ("text", "attribute"), [(AS_MODULE, "sys.modules[__name__]"), (AS_CLASS, None)]
)
def test_modules_and_classes_pass(
    text: str, attribute: str | None, settings: Settings, tmp_path: Path
) -> None:
    if attribute is not None:
        text += f"import sys\ncandidate = {attribute}\n"
    path = tmp_path / "mine.py"
    path.write_text(text)
    found = outcomes(load_candidate(f"{path}:candidate"), settings, "L2", "L3")
    assert not alarms(found)
    assert Verdict.OK in {outcome.verdict for outcome in found}


def test_plain_is_judged_by_everything_that_it_does_not_rule_out(
    settings: Settings,
) -> None:
    found = outcomes(subject_of(PLAIN), settings, "L0", "L1", "L2", "L3")
    assert not alarms(found)
    assert {o.text for o in found if not o.verdict.judged} == {
        "declares no tactics",
        "capability deterministic: False",
        "capability batch_invariant: False",
    }


@pytest.mark.parametrize("seed", [1, 4])
def test_a_fused_op_may_take_its_logits_in_bfloat16(seed: int) -> None:
    """That moves routing weights by more than their own rounding to bfloat16 does."""
    check = "test_fused_routing_stays_within_the_bound"
    subject = subject_of(FORMS["bfloat16_logits"])
    with repeatable_settings(profile="ci", seed=seed) as settings:
        assert not alarms(trial(check, subject, settings, explain=False))


@pytest.mark.parametrize(
    ("name", "check", "note"),
    [
        ("shifted_bits", "test_decode_is_exact_for_every_scale_and_byte", "byte 0x00"),
        ("routing_object", "test_route_chooses_the_top_k", "ties are not broken"),
    ],
)
def test_a_public_convention_is_a_note(
    name: str, check: str, note: str, settings: Settings
) -> None:
    found = list(trial(check, subject_of({**NUMERIC, **FORMS}[name]), settings))
    assert not alarms(found)
    [*noted] = [o for o in found if o.verdict is Verdict.QUALITY_NOTE]
    assert all(note in o.text for o in noted)
    assert noted
