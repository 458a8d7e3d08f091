"""The task in lm-eval, without lm-eval's own index and without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

TASK = "grade_school"
FOLDER = Path(__file__).parent / "lm_eval_task"
# What the score is called in lm-eval's results.
METRIC = "exact_match,strict-match"


def evaluate(model: Any, *, limit: int | None = None) -> dict[str, Any]:
    """lm-eval's results for `model`, an `lm_eval.api.model.LM`.

    `results["grade_school"][METRIC]` is the share of correct answers; one row a
    problem is in `samples["grade_school"]`.
    """
    manager = TaskManager(include_path=str(FOLDER), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=[TASK],
        task_manager=manager,
        num_fewshot=0,
        limit=limit,
        log_samples=True,
        bootstrap_iters=0,
    )
    assert found is not None, "lm-eval returns None on ranks other than 0 only"
    return dict(found)
