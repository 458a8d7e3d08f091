"""How many threads a model gets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.inside.load import load
from mxmoe.evals.inside.threads import spare_threads


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("hidden", "device", "threads"),
    [(128, "cpu", 1), (2880, "cpu", 3), (128, "meta", 3)],
    ids=["narrow", "gpt_oss", "elsewhere"],
)
def test_a_narrow_model_on_a_cpu_gets_one_thread(
    three_threads: None, hidden: int, device: str, threads: int
) -> None:
    spare_threads(torch.nn.Linear(1, 1, device=device), hidden=hidden)
    assert torch.get_num_threads() == threads


def test_whoever_asks_for_threads_keeps_them(
    three_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    spare_threads(torch.nn.Linear(1, 1), hidden=128)
    assert torch.get_num_threads() == 3


def test_a_model_that_is_loaded_has_what_it_needs(three_threads: None) -> None:
    load(FOLDER, dtype=torch.float32, device="cpu", experts=False)
    assert torch.get_num_threads() == 1
