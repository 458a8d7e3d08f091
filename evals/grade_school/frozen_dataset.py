"""The frozen problems as lm-eval wants them."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from mxmoe.evals.grade_school.frozen import load_test_problems


def load(**_: Any) -> dict[str, Dataset]:
    """{"test": the 1319 problems}, checked against their hash."""
    rows = [
        {"question": problem.question, "answer": problem.answer}
        for problem in load_test_problems()
    ]
    return {"test": Dataset.from_list(rows)}
