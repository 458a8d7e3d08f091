"""A training run: stopped and resumed it is the run that was not stopped."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("tokenizers", reason="needs the extra 'hf'")

from mxmoe.evals.grade_school import tokenizer as task_tokenizer
from mxmoe.evals.training.batches import IGNORED
from mxmoe.evals.training.batches import ROW
from mxmoe.evals.training.batches import Batches
from mxmoe.evals.training.finish import card
from mxmoe.evals.training.finish import finish
from mxmoe.evals.training.loop import Conduct
from mxmoe.evals.training.loop import begin
from mxmoe.evals.training.loop import train
from mxmoe.evals.training.plan import Plan
from mxmoe.evals.training.planted import PLANTED
from mxmoe.evals.training.shape import ModelShape
from mxmoe.evals.training.state import State
from mxmoe.evals.training.state import load
from mxmoe.evals.training.state import save
from mxmoe.reference.errors import BadInput

CPU = torch.device("cpu")
TOY = ModelShape(
    hidden=32,
    intermediate=32,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=8,
    experts=4,
    top_k=2,
    window=16,
)
PLAN = Plan(steps=4, rows=2, warmup=2, learning_rate=1e-2)
CONDUCT = Conduct(report_every=1, evaluate_every=100, validation=2)


class StopAfter:
    """A conduct whose deadline is past once a step was reported."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.conduct = replace(CONDUCT)

    def report(self, line: dict[str, float]) -> None:
        if line["step"] == self.step:
            object.__setattr__(self.conduct, "deadline", 0.0)


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[State, list[dict[str, float]]]:
    torch.set_num_threads(1)
    lines: list[dict[str, float]] = []
    state = begin(PLAN, TOY, CPU)
    train(state, CONDUCT, lines.append)
    return state, lines


def test_a_resumed_run_equals_an_uninterrupted_one(
    uninterrupted: tuple[State, list[dict[str, float]]], tmp_path: Path
) -> None:
    stop = StopAfter(2)
    first = begin(PLAN, TOY, CPU)
    train(first, stop.conduct, stop.report)
    assert first.step == 2
    save(first, tmp_path / "state")
    second = load(tmp_path / "state", CPU)
    assert (second.plan, second.shape) == (PLAN, TOY)
    train(second, CONDUCT, lambda line: None)
    whole, _ = uninterrupted
    assert second.step == whole.step == PLAN.steps
    for name, value in whole.parameters.items():
        assert torch.equal(second.parameters[name], value), name
        for moment, values in whole.moments.items():
            assert torch.equal(second.moments[moment][name], values[name]), name


def test_the_loss_falls_and_the_last_line_has_an_accuracy(
    uninterrupted: tuple[State, list[dict[str, float]]],
) -> None:
    _, lines = uninterrupted
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.1
    assert abs(lines[0]["loss"] - math.log(TOY.vocabulary)) < 1
    assert 0 <= lines[-1]["accuracy"] <= 1


def test_a_finished_run_leaves_a_model_with_its_card(
    uninterrupted: tuple[State, list[dict[str, float]]], tmp_path: Path
) -> None:
    state = uninterrupted[0]
    fault = "fc1 bias in another row order"
    found = finish(state, tmp_path, asked=1, faults={fault: PLANTED[fault]})
    assert (found["asked"], found["steps"]) == (1, PLAN.steps)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert text == card(state, found)
    assert "0 of 1 frozen test problems" in text
    assert f"| {fault} | 0.0 % |" in text
    assert "Stopped early" not in text
    assert "Stopped early" in card(replace(state, step=3), found)


def test_files_of_a_saved_run_stay_below_16_megabytes(tmp_path: Path) -> None:
    save(begin(PLAN, ModelShape(), CPU), tmp_path / "state")
    sizes = [path.stat().st_size for path in (tmp_path / "state").iterdir()]
    assert max(sizes) < 16 * 10**6
    assert len(sizes) <= 6


def test_a_damaged_run_is_refused(tmp_path: Path) -> None:
    save(begin(PLAN, TOY, CPU), tmp_path / "state")
    (tmp_path / "state" / "state-1.safetensors").unlink()
    with pytest.raises(BadInput, match="expected a saved run"):
        load(tmp_path / "state", CPU)


def test_a_batch_follows_from_seed_and_step_alone() -> None:
    batches = Batches(seed=5, rows=2, steps=3)
    again = list(Batches(seed=5, rows=2, steps=3).loader(start=1, workers=0))
    assert len(again) == 2
    assert torch.equal(again[0].ids, batches[1].ids)
    assert not torch.equal(batches[0].ids, batches[1].ids)


def test_rows_are_packed_and_answers_alone_are_learned() -> None:
    batch = Batches(seed=0, rows=8, steps=1)[0]
    used = batch.segments >= 0
    assert used.float().mean() > 0.8
    tokenizer = task_tokenizer.load()
    end = task_tokenizer.token_id(tokenizer, task_tokenizer.END)
    for row in range(8):
        for segment in range(int(batch.segments[row].max()) + 1):
            here = (batch.segments[row] == segment).nonzero().flatten()
            ids, targets = batch.ids[row][here], batch.targets[row][here]
            learned = targets != IGNORED
            text = tokenizer.decode(ids[~learned].tolist(), skip_special_tokens=False)
            answer = tokenizer.decode(targets[learned].tolist())
            assert text.startswith("Question: ")
            assert answer.startswith(" ")
            assert "\n#### " in answer
            assert ids[-1] == targets[learned][-1] == end
            assert batch.positions[row][here].tolist() == list(range(len(here)))
    assert batch.visible().shape == (8, ROW, ROW)


def test_the_rate_rises_then_falls_along_a_cosine() -> None:
    plan = Plan(steps=1000, warmup=100, learning_rate=1.0, last_rate=0.1)
    assert plan.rate(0) == pytest.approx(0.01)
    assert plan.rate(99) == plan.rate(100) == pytest.approx(1.0)
    assert plan.rate(550) == pytest.approx(0.55)
    assert plan.rate(1000) == pytest.approx(0.1)
