"""Two failures of one fault are the same; those of two faults are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mxmoe.conformance.bounds.compare_numbers import damage
from mxmoe.conformance.verdict import Verdict
from mxmoe.evals.bisect.signature import Signature
from mxmoe.evals.bisect.signature import from_json
from mxmoe.evals.bisect.signature import read_text
from mxmoe.reference.errors import BadInput

OUTPUT = """\
my_kernel · output · e4k2h64i64/tp1r0/t5/s{seed}
token {token}, column 30: expected -2.5, found -0.8, off by 1.6, allowed 0.03 (51x)
out of bound: {bad} of 320 elements (93.8 %); damage: {damage}
first bad stage: {stage}
why    {why}
attribution: the bytes are ours, so your kernel is wrong
again  mxmoe check --candidate my_kernel.py -k test_output --case e4k2h64i64/tp1r0/t5/s0
bundle runs/20261125-192054-17931/bundles/e129fb053ca4"""
UNEXPLAINED = "none of the known hypotheses gives this output"


def output(**changes: object) -> Signature:
    facts = {
        "seed": 0,
        "token": 0,
        "bad": 300,
        "damage": "exactly the tokens that visit expert 2",
        "stage": "activation, token 1, slot 0 (expert 2), column 7: expected 1",
        "why": UNEXPLAINED,
    }
    text = OUTPUT.format(**facts | changes)
    return read_text(text, verdict=Verdict.MISMATCH, check="test_output")


def raised(message: str) -> Signature:
    text = (
        f"my_kernel · call · e1k1h32i32\nforward raised {message}\n  at a.py:3 in f: x"
    )
    return read_text(text, verdict=Verdict.CRASH, check="test_output")


def test_everything_that_is_said_is_read() -> None:
    assert output(why="behaves as if: down bias ignored; or halved") == Signature(
        verdict=Verdict.MISMATCH,
        check="test_output",
        subject="output",
        stage="activation",
        damage="the rows of one expert",
        causes=("down bias ignored", "halved"),
    )


def test_another_expert_row_token_or_seed_is_the_same_fault() -> None:
    other = output(
        seed=7,
        token=3,
        bad=17,
        damage="exactly the tokens that visit expert 3",
        stage="activation, token 4, slot 1 (expert 3), column 9: expected 1",
    )
    assert output().same_fault(other)
    assert other.same_fault(output())


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": "down, token 1, slot 0 (expert 2), column 7: expected 1"},
        {"damage": "trailing columns 32..63 of every token: look at the N tail"},
        {"damage": "every token and column"},
        {"why": "behaves as if: down bias ignored"},
    ],
)
def test_another_stage_damage_or_cause_is_another_fault(
    changes: dict[str, str],
) -> None:
    assert not output().same_fault(output(**changes))
    assert not output(**changes).same_fault(output())


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": Verdict.NONFINITE},
        {"check": "test_layer_output"},
        {"subject": "trace down"},
    ],
)
def test_another_verdict_check_or_subject_is_another_fault(
    changes: dict[str, str],
) -> None:
    assert not output().same_fault(replace(output(), **changes))


def test_a_shared_cause_outweighs_the_shape_of_the_damage() -> None:
    one = output(why="behaves as if: no clamp; or alpha taken as 1")
    other = output(why="behaves as if: no clamp", damage="a single element")
    assert one.same_fault(other)


def test_a_stage_that_one_of_the_two_does_not_observe_says_nothing() -> None:
    assert output().same_fault(output(stage="not observable (exposes no trace)"))


def test_what_is_not_explained_is_no_cause() -> None:
    for why in (
        UNEXPLAINED,
        "not searched: there are too many weights for it",
        "close to the bound: a rounding that class x does not have?",
        "gate_up_bias: no edit of one or two known steps gives these bytes",
        "nothing known, taken out, leaves errors of honest roundings",
        "the row of token 11 follows the hidden states of token 10 (the one before)",
        "other bits than the same token alone: every row of batches from 9 tokens on",
        "the second output is out of its own bound; none of the known hypotheses",
    ):
        assert output(why=why).causes == ()


def test_how_far_a_factor_is_known_and_whose_output_it_is_belong_to_the_case() -> None:
    one = output(why="behaves as if: down bias times 1.0019 (to within 0.0004)")
    other = output(why="behaves as if: down bias times 1.0021 (to within 0.00013)")
    assert one.causes == other.causes == ("down bias times #",)
    for whose in (
        "the second output is out of its own bound; the first output is within its own",
        "every rank",
        "ranks tp4r1, tp4r3",
    ):
        found = output(why=f"behaves as if: no clamp; or alpha taken as 1 ({whose})")
        assert found.causes == ("no clamp", "alpha taken as 1")


def test_bytes_have_the_tensor_the_fraction_and_the_steps() -> None:
    found = read_text(
        "mine · gate_up_bias · layer 1 · e4k2h64i64 · tp1r0\n"
        "124 of 128 entries differ (97 %), first at [e=0, 1]\n"
        "why    gate_up_bias: any of: missing: row shuffle 32; rows reversed\n"
        "       gate_up_blocks: as specified, so the two disagree",
        verdict=Verdict.MISMATCH,
        check="test_prepared_bytes",
    )
    assert (found.subject, found.damage) == ("gate_up_bias", "most entries")
    assert found.causes == ("missing: row shuffle 32", "rows reversed")


def test_exceptions_are_the_same_whatever_numbers_they_print() -> None:
    assert raised("ValueError: 3 rows at 0x7f12").same_fault(
        raised("ValueError: 5 rows at 0xab")
    )
    assert not raised("ValueError: 3 rows").same_fault(raised("TypeError: 3 rows"))
    assert not raised("ValueError: 3 rows").same_fault(raised("ValueError: 3 columns"))


def test_a_law_is_recognised_by_its_first_line() -> None:
    def law(line: str) -> Signature:
        text = f"mine · law · e1\n{line}\nagain  mxmoe check"
        return read_text(text, verdict=Verdict.MISMATCH, check="test_laws")

    negated = law("negating W2 and b2 does not negate the output: 3 of 9 elements")
    assert negated.same_fault(law(negated.said.replace("#", "7")))
    assert not negated.same_fault(law("permuting experts changes the output: 3 of 9"))


def test_the_suites_own_phrases_of_damage_are_understood() -> None:
    bad = torch.zeros(4, 8, dtype=torch.bool)
    bad[:, 2:] = True
    bad[0, 5] = False
    assert "trailing" in damage(bad) or "of 8 columns" in damage(bad)
    everywhere = torch.ones(4, 8, dtype=torch.bool)
    one_row = torch.zeros_like(everywhere)
    one_row[2] = True
    shapes = [output(damage=damage(mask)).damage for mask in (everywhere, one_row)]
    assert shapes == ["every row, every column", "some rows, every column"]


def test_json_gives_the_signature_back() -> None:
    assert from_json(output().as_json()) == output()
    with pytest.raises(BadInput, match="expected one of ours"):
        from_json({"verdict": "wrong"})
