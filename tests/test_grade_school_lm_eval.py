"""lm-eval runs the task without a network, and scores as we do."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the extra 'eval'")

from lm_eval.api.model import LM

from mxmoe.evals.grade_school import frozen
from mxmoe.evals.grade_school import with_lm_eval
from mxmoe.evals.grade_school.answers import is_correct

TEST = frozen.load_test_problems()
BY_PROMPT = {problem.prompt: problem for problem in TEST}
# Right, wrong number, right without the mark, nothing, NaN's text, two answers.
WRITTEN = ("{gold}", "#### 0", "{number}", "", "!!!!", "{gold}\n#### 1")


class Writes(LM):  # type: ignore[misc]
    """Writes one of WRITTEN after each prompt, in turn."""

    def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
        self.options = requests[0].args[1]
        problems = [BY_PROMPT[request.args[0]] for request in requests]
        return [written(n, problem) for n, problem in enumerate(problems)]

    def loglikelihood(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


def written(n: int, problem: Any) -> str:
    number = problem.answer.rpartition("#### ")[2]
    return WRITTEN[n % len(WRITTEN)].format(gold=problem.completion, number=number)


@pytest.mark.filterwarnings("ignore")
def test_the_scores_agree_problem_by_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    model = Writes()
    found = with_lm_eval.evaluate(model)
    ours = [is_correct(problem, written(n, problem)) for n, problem in enumerate(TEST)]
    rows = found["samples"][with_lm_eval.TASK]
    assert [row["doc"]["question"] for row in rows] == [p.question for p in TEST]
    assert [bool(row["exact_match"]) for row in rows] == ours
    score = found["results"][with_lm_eval.TASK][with_lm_eval.METRIC]
    assert score == pytest.approx(sum(ours) / len(TEST))
    assert 0.3 < score < 0.4
    assert model.options["do_sample"] is False
    assert model.options["until"] == ["<|return|>", "Question:"]
