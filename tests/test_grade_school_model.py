"""The model that ships is what its card says, answers, and notices faults."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("tokenizers", reason="needs the extra 'hf'")

from mxmoe.evals.grade_school.answers import count_correct
from mxmoe.evals.grade_school.frozen import load_test_problems
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.model_identity import weights_sha256
from mxmoe.evals.training.complete import complete
from mxmoe.evals.training.export import exported_parameters
from mxmoe.evals.training.parameters import Parameters
from mxmoe.evals.training.planted import PLANTED
from mxmoe.evals.training.shape import ModelShape

# Every template is among this many problems of the test.
ASKED = 62
MOST_BYTES = 5 * 10**6


@pytest.fixture(scope="module")
def trained() -> Parameters:
    return exported_parameters(FOLDER, torch.device("cpu"))


def correct(parameters: Parameters, shape: ModelShape, asked: int) -> int:
    problems = load_test_problems()[:asked]
    prompts = [problem.prompt for problem in problems]
    texts = complete(parameters, shape, prompts, batch=asked, longest=128)
    return count_correct(problems, texts)


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MOST_BYTES


def test_its_card_names_its_weights() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"Weights: SHA-256 `{weights_sha256(FOLDER)}`" in card


def test_it_answers_a_problem_of_every_template(trained: Parameters) -> None:
    assert correct(trained, ModelShape(), ASKED) >= ASKED - 1


@pytest.mark.parametrize(
    "fault", ["fc1 bias in another row order", "fc2 bias in another row order"]
)
def test_a_bias_in_another_row_order_leaves_it_no_answer(
    trained: Parameters, fault: str
) -> None:
    assert correct(*PLANTED[fault](trained, ModelShape()), 8) == 0
