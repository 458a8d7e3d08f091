"""Teacher forcing sees a fault in one late layer, which the score does not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from mxmoe.evals.gate import forced_run
from mxmoe.evals.gate.forced import LIMITS
from mxmoe.evals.gate.forced import ForcedScore
from mxmoe.evals.gate.forced import conclude_forced
from mxmoe.evals.gate.forced import line_of
from mxmoe.evals.gate.forced import score_of
from mxmoe.evals.gate.forced_run import FILE
from mxmoe.evals.gate.forced_run import run_forced
from mxmoe.evals.gate.options import Options
from mxmoe.evals.gate.order import registered_order
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.evals.inside.experts import Inside
from mxmoe.evals.inside.teacher_forced import Forced

FEW = 3


def forced(*probabilities: float, top: tuple[int, ...] | None = None) -> Forced:
    return Forced(
        index=0,
        logprobs=tuple(map(math.log, probabilities)),
        top=top or tuple(range(len(probabilities))),
    )


def found_with(candidate: str, folder: Path, **others: Any) -> ForcedScore:
    _, score = run_forced(Options(candidate=candidate), folder, questions=FEW, **others)
    assert score is not None
    return score


def in_layer(
    monkeypatch: pytest.MonkeyPatch, number: int, change: Callable[[Any], None]
) -> None:
    """Do something to one layer's prepared weights when a candidate is put inside."""
    put = forced_run.put_inside

    def changed(*arguments: Any) -> Inside:
        inside = put(*arguments)
        change(inside.experts[number].prepared)
        return inside

    monkeypatch.setattr(forced_run, "put_inside", changed)


def test_equal_logits_do_not_shift() -> None:
    line = line_of(7, forced(0.9, 0.5), forced(0.9, 0.5))
    assert (line.question, line.tokens, line.disagreements) == (7, 2, 0)
    assert line.squared_shift == 0
    assert line.nll == pytest.approx(-math.log(0.9) - math.log(0.5))


def test_the_shift_is_that_of_the_margin_where_the_model_is_sure() -> None:
    # Margins of 10 and 12 against one other token.
    sure = [1 / (1 + math.exp(-margin)) for margin in (10, 12)]
    line = line_of(0, forced(sure[0]), forced(sure[1]))
    assert line.squared_shift == pytest.approx(4, rel=1e-3)


def test_tokens_count_once_whatever_their_question() -> None:
    long = line_of(0, forced(*[0.5] * 9), forced(*[0.5] * 9))
    short = line_of(1, forced(0.25, top=(1,)), forced(0.5))
    found = score_of([long, short])
    assert (found.questions, found.tokens) == (2, 10)
    assert found.agreement == pytest.approx(0.9)
    assert found.nll == pytest.approx(-(9 * math.log(0.5) + math.log(0.25)) / 10)


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(0.1, GateVerdict.PASS), (0.1001, GateVerdict.FAIL), (math.nan, GateVerdict.FAIL)],
)
def test_the_limit_decides_and_nan_never_passes(
    shift: float, verdict: GateVerdict
) -> None:
    score = ForcedScore(
        questions=1, tokens=1, nll=0.0, other_nll=0.0, agreement=1.0, shift=shift
    )
    assert conclude_forced(score, limit=0.1).verdict is verdict
    bypassed = conclude_forced(score, limit=0.1, did_not_run="layer 0: no call")
    assert bypassed.verdict is GateVerdict.INVALID


def test_a_correct_candidate_is_within_rounding(tmp_path: Path) -> None:
    found = found_with("torch_dense", tmp_path / "run")
    # The error of bfloat16 activations: more than nothing, less than the limit.
    assert 1e-3 < found.shift < LIMITS["float32"] / 2
    assert found.agreement == 1.0
    lines = (tmp_path / "run" / FILE).read_text("utf-8").splitlines()
    asked = registered_order(1319, seed=0)[:FEW]
    assert tuple(json.loads(line)["question"] for line in lines) == asked


def test_down_biases_dropped_in_the_last_layer_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_layer(monkeypatch, 3, lambda prepared: prepared["down_bias"].zero_())
    options = Options(candidate="torch_dense")
    conclusion, score = run_forced(options, tmp_path / "run", questions=FEW)
    assert conclusion.verdict is GateVerdict.FAIL
    assert score is not None
    assert score.shift > 5 * LIMITS["float32"]
    # What an eye on the likelihood alone would not have told from a right one.
    assert abs(score.nll - score.other_nll) < 0.01


@pytest.mark.nightly
def test_a_candidate_against_itself_does_not_shift_at_all(tmp_path: Path) -> None:
    assert found_with("torch_dense", tmp_path / "r", against="torch_dense").shift == 0.0


@pytest.mark.nightly
def test_nan_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_layer(monkeypatch, 2, lambda prepared: prepared["down_bias"].fill_(float("nan")))
    conclusion, score = run_forced(
        Options(candidate="torch_dense"), tmp_path / "run", questions=FEW
    )
    assert conclusion.verdict is GateVerdict.FAIL
    assert "NaN or infinity" in conclusion.reasons[0]
    assert score is None


@pytest.mark.nightly
@pytest.mark.parametrize("candidate", ["hf_experts", "torch_dense", "trtllm_gen"])
def test_every_bundled_candidate_is_within_rounding_on_64_questions(
    candidate: str, tmp_path: Path
) -> None:
    conclusion, score = run_forced(
        Options(candidate=candidate), tmp_path / "run", questions=64
    )
    assert conclusion.verdict is GateVerdict.PASS
    assert score is not None
    assert 4 * score.shift <= LIMITS["float32"]
