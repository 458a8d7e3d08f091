"""Only what the candidate did passes or fails; everything else is no score."""

from __future__ import annotations

from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.evals.gate.evidence import weigh
from mxmoe.evals.gate.rule import Rule
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.evals.gate.verdict import conclude

RULE = Rule(1319, 1149)
GOOD, BAD, WORSE = weigh(RULE, 64, 64), weigh(RULE, 5, 0), weigh(RULE, 128, 90)
NAN = Failure(Verdict.NONFINITE, "logits: expected finite ones, found NaN")


def test_a_certain_score_passes() -> None:
    found = conclude(RULE, GOOD)
    assert found.verdict is GateVerdict.PASS
    assert found.reasons == (
        "64 of 64 correct; 1149 of 1319 pass, "
        "and going on changes the verdict in 1 of 1000 at most",
    )


def test_a_score_at_the_floor_is_called_broken_numerics() -> None:
    found = conclude(RULE, BAD)
    assert found.verdict is GateVerdict.FAIL
    assert found.reasons[1].startswith("broken numerics")
    assert "accuracy at most 45 %" in found.reasons[1]


def test_a_score_between_is_called_a_regression() -> None:
    found = conclude(RULE, WORSE)
    assert found.verdict is GateVerdict.FAIL
    assert found.reasons[1].startswith("regression")


def test_nan_fails_whatever_the_score() -> None:
    found = conclude(RULE, GOOD, failure=NAN)
    assert (found.verdict, found.reasons) == (GateVerdict.FAIL, (NAN.text,))


def test_another_protocol_is_no_verdict_on_the_candidate() -> None:
    for standing in (GOOD, BAD):
        found = conclude(RULE, standing, other_protocol=["few_shots: expected 5"])
        assert found.verdict is GateVerdict.INVALID
        assert found.reasons == ("other protocol: few_shots: expected 5",)


def test_a_candidate_that_did_not_run_has_no_score() -> None:
    for standing in (GOOD, BAD):
        found = conclude(RULE, standing, did_not_run="layer 0: no call")
        assert found.verdict is GateVerdict.INVALID


def test_answers_that_were_cut_are_no_passing_score() -> None:
    found = conclude(RULE, GOOD, complaints=["9 of 64 answers were cut"])
    assert found.verdict is GateVerdict.INVALID
    assert found.reasons[0] == "9 of 64 answers were cut"
    assert conclude(RULE, BAD, complaints=["9 cut"]).verdict is GateVerdict.FAIL


def test_a_run_that_was_stopped_is_inconclusive() -> None:
    found = conclude(RULE, weigh(RULE, 20, 19))
    assert found.verdict is GateVerdict.INCONCLUSIVE


def test_every_verdict_has_its_exit_code() -> None:
    assert [verdict.exit_code for verdict in GateVerdict] == [
        ExitCode.PASS,
        ExitCode.FAIL,
        ExitCode.INVALID,
        ExitCode.INCONCLUSIVE,
    ]
