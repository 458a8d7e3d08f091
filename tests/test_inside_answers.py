"""Answers of the trained model: batches, padding, faults and NaN in the candidate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.evals import score_grade_school
from mxmoe.evals.grade_school import frozen
from mxmoe.evals.grade_school.answers import is_correct
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.inside.experts import Inside
from mxmoe.evals.inside.experts import put_inside
from mxmoe.evals.inside.generate import Answer
from mxmoe.evals.inside.generate import answers
from mxmoe.evals.inside.load import Loaded
from mxmoe.evals.inside.load import load
from mxmoe.evals.inside.score import score
from mxmoe.kernels.trtllm_gen.faults import biases_not_shuffled
from mxmoe.reference.errors import BadInput

# Short ones: prompts of 27, 39, 33 and 33 tokens, answers of 30, 36, 60 and 66.
PROBLEMS = frozen.load_test_problems()[3:700:190]
SHORTEST = PROBLEMS[:2]


class Changed:
    """torch_dense with something done to its result in the first layer only."""

    def __init__(self, change: Any) -> None:
        self.inner = load_candidate("torch_dense").candidate
        self.change, self.first = change, None

    def forward(self, prepared: Any, hidden_states: Any, routing: Any) -> Any:
        self.first = self.first or prepared
        out = self.inner.forward(prepared, hidden_states, routing)
        return self.change(out) if prepared is self.first else out

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def with_candidate(spec: str, candidate: object | None = None) -> Inside:
    subject = load_candidate(spec, device="cpu")
    if candidate is not None:
        subject = replace(subject, candidate=candidate)
    return put_inside(load(FOLDER, dtype=torch.float32, device="cpu"), subject)


def written(loaded: Loaded, batch: int, longest: int = 160) -> list[Answer]:
    prompts = [problem.prompt for problem in PROBLEMS]
    found = answers(loaded, prompts, batch=batch, longest=longest)
    return sorted(found, key=lambda answer: answer.index)


@pytest.fixture(scope="module")
def plain() -> Loaded:
    return load(FOLDER, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def together(plain: Loaded) -> list[Answer]:
    return written(plain, batch=len(PROBLEMS))


def test_the_model_answers(together: list[Answer]) -> None:
    assert [answer.index for answer in together] == list(range(len(PROBLEMS)))
    assert {answer.finish_reason for answer in together} == {"stop"}
    right = [
        is_correct(problem, answer.text)
        for problem, answer in zip(PROBLEMS, together, strict=True)
    ]
    assert sum(right) >= len(PROBLEMS) - 1


@pytest.mark.parametrize("batch", [1, 3])
def test_batch_and_padding_do_not_change_answers(
    batch: int, plain: Loaded, together: list[Answer]
) -> None:
    assert written(plain, batch=batch) == together


def test_answers_are_those_of_transformers_generate(
    plain: Loaded, together: list[Answer]
) -> None:
    ids = plain.tokenizer(PROBLEMS[0].prompt, return_tensors="pt")
    out = plain.model.generate(**ids, max_new_tokens=160, do_sample=False)
    new = out[0, ids["input_ids"].shape[1] :].tolist()
    assert new == [*together[0].tokens, plain.end_tokens[0]]


@pytest.mark.parametrize("longest", [5, 8])
def test_an_answer_that_does_not_end_says_so(
    longest: int, plain: Loaded, together: list[Answer]
) -> None:
    cut = written(plain, batch=4, longest=longest)
    assert {answer.finish_reason for answer in cut} == {"length"}
    for short, whole in zip(cut, together, strict=True):
        assert short.tokens == whole.tokens[:longest]


def test_a_stop_string_ends_an_answer_as_if_it_had_gone_no_further(
    plain: Loaded, together: list[Answer]
) -> None:
    # Of several tokens, early and late in an answer.
    for stop in ("<<", "\n####"):
        prompts = [problem.prompt for problem in SHORTEST]
        found = sorted(
            answers(plain, prompts, batch=2, longest=160, stops=("never", stop)),
            key=lambda answer: answer.index,
        )
        for short, whole in zip(found, together[:2], strict=True):
            assert short.text == whole.text.partition(stop)[0]
            assert short.finish_reason == "stop"
            assert short.tokens == whole.tokens[: len(short.tokens)]
            assert stop in plain.tokenizer.decode(short.tokens)
            assert stop not in plain.tokenizer.decode(short.tokens[:-1])


def test_nan_of_a_candidate_is_reported_with_its_layer() -> None:
    model = with_candidate("torch_dense", Changed(lambda out: out * torch.nan))
    with pytest.raises(Failure, match="found NaN or infinity in 4 of 4") as caught:
        score(model, PROBLEMS[:4], batch=4, longest=8)
    assert caught.value.verdict is Verdict.NONFINITE
    assert caught.value.text.endswith("returned NaN or infinity in layer 0")


def test_nan_of_one_token_is_reported_too() -> None:
    def change(out: torch.Tensor) -> torch.Tensor:
        out[-1] = torch.inf
        return out

    model = with_candidate("torch_dense", Changed(change))
    with pytest.raises(Failure, match="NaN or infinity in 1 of 4 answers"):
        score(model, PROBLEMS[:4], batch=4, longest=1)


def test_nan_from_elsewhere_is_not_laid_on_the_candidate() -> None:
    model = with_candidate("torch_dense")
    with torch.no_grad():
        model.loaded.layers[1].self_attn.o_proj.bias.fill_(torch.nan)
    with pytest.raises(Failure) as caught:
        score(model, PROBLEMS[:2], batch=2, longest=1)
    assert caught.value.verdict is Verdict.NONFINITE
    assert "candidate" not in caught.value.text


def test_an_exception_in_a_candidate_is_a_crash() -> None:
    model = with_candidate("torch_dense", Changed(lambda out: out / None))
    with pytest.raises(Failure, match="forward raised TypeError") as caught:
        score(model, PROBLEMS[:1], batch=1, longest=1)
    assert caught.value.verdict is Verdict.CRASH


@pytest.mark.nightly
def test_biases_in_another_row_order_give_wrong_answers() -> None:
    right = score(with_candidate("trtllm_gen"), SHORTEST, batch=2)
    faulty = Loader(biases_not_shuffled())
    wrong = score(with_candidate("trtllm_gen", faulty), SHORTEST, batch=2, longest=36)
    assert right.correct == len(SHORTEST)
    assert wrong.correct == 0
    for found in (right, wrong):
        assert found.proof is not None
        assert found.proof.holds


class Loader:
    """A faulty loader's `prepare`, trtllm_gen's `forward`."""

    def __init__(self, loader: Any) -> None:
        self.prepare = loader.prepare
        self.forward = load_candidate("trtllm_gen").candidate.forward


def test_a_run_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made" / "record.json"
    score_grade_school.main(out=out, candidate="torch_dense", batch=2, limit=2)
    found = json.loads(out.read_text("utf-8"))
    assert (found["asked"], found["correct"], found["wrong"]) == (2, 2, [])
    assert (found["dtype"], found["batch"], found["device"]) == ("float32", 2, "cpu")
    assert found["candidate"]["name"] == "torch_dense"
    assert found["weights_sha256"] in (FOLDER / "README.md").read_text("utf-8")
    assert found["test_sha256"] == frozen.SHA256
    assert found["proof"]["holds"]
    assert found["proof"]["layer_calls"] == [found["proof"]["passes"]] * 4
    assert found["seconds"] > 0
    assert capsys.readouterr().out.startswith("2 of 2 correct, 100.00 % (95 % interval")


def test_a_run_whose_candidate_was_bypassed_is_invalid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Loaded
) -> None:
    def bypassed(loaded: Loaded, subject: Any) -> Inside:
        model = put_inside(loaded, subject)
        loaded.layers[0].mlp.experts = plain.layers[0].mlp.experts
        return model

    monkeypatch.setattr(score_grade_school, "put_inside", bypassed)
    out = tmp_path / "record.json"
    with pytest.raises(score_grade_school.typer.Exit) as caught:
        score_grade_school.main(out=out, candidate="torch_dense", batch=2, limit=2)
    assert caught.value.exit_code == ExitCode.INVALID
    assert json.loads(out.read_text("utf-8"))["proof"]["holds"] is False


def test_an_unknown_dtype_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected float32 or bfloat16"):
        score_grade_school.main(out=tmp_path / "x.json", dtype="float8")
