"""Layers on several devices: each is prepared where its own weights lie."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.verdict import Failure
from mxmoe.evals.gate.options import Options
from mxmoe.evals.gate.options import cannot_run
from mxmoe.evals.gate.options import load_subject
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.inside import experts
from mxmoe.evals.inside import generate
from mxmoe.evals.inside.generate import answers
from mxmoe.evals.inside.load import Loaded
from mxmoe.evals.inside.load import load
from mxmoe.evals.inside.shelf import Shelf
from mxmoe.reference.errors import BadInput

PROMPT = "Q: 2+2?"


def loaded_on_cpu() -> Loaded:
    return load(FOLDER, dtype=torch.float32, device="cpu")


class Recorder:
    """Says where it was told to prepare, and goes no further."""

    name = "recorder"

    def __init__(self) -> None:
        self.devices: list[torch.device] = []

    def prepare(self, weights: Any, config: Any, shard: Any, device: Any) -> Any:
        self.devices.append(device)
        raise RuntimeError("seen")

    def forward(self, prepared: Any, hidden_states: Any, routing: Any) -> Any:
        raise RuntimeError("never called")


def test_each_layer_is_prepared_on_its_own_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded, recorder = loaded_on_cpu(), Recorder()
    subject = replace(load_candidate("torch_dense", device="cuda"), candidate=recorder)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    expected = [torch.device("cuda", number // 2) for number in range(4)]
    for number, device in enumerate(expected):
        where = SimpleNamespace(device=device)
        module = loaded.layers[number].mlp.experts
        monkeypatch.setattr(module, "parameters", lambda w=where: iter([w]))
        with pytest.raises(Failure, match="prepare raised RuntimeError: seen"):
            experts._replace(loaded, subject, number, Shelf(room=0))
    assert recorder.devices == expected


def test_a_layer_that_found_no_room_is_named() -> None:
    loaded = loaded_on_cpu()
    loaded.layers[1].mlp.experts.to("meta")
    with pytest.raises(BadInput, match=r"room for all layers.*layer 1"):
        experts.put_inside(loaded, load_candidate("torch_dense", device="cpu"))


def test_rows_leave_a_batch_by_an_index_that_fits_any_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    class Indexed(torch.Tensor):
        """An index that says when it is brought to the CPU."""

        def cpu(self, *args: Any, **options: Any) -> torch.Tensor:
            seen.append("cpu")
            return super().cpu(*args, **options)

    right = generate._Rows.keep
    monkeypatch.setattr(
        generate._Rows,
        "keep",
        lambda self, rows: right(self, rows.as_subclass(Indexed)),
    )
    assert list(answers(loaded_on_cpu(), [PROMPT], batch=1, longest=8))
    assert seen == ["cpu"]


def test_a_candidate_for_the_cpu_alone_is_not_spread_over_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = load_subject(Options(candidate="torch_dense", device="auto"))
    assert subject.device_request == "cuda"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    declared = replace(subject.capabilities, devices=("cpu",))
    cpu_only = SimpleNamespace(
        name="cpu_only", capabilities=declared, forward=Recorder.forward
    )
    reason = cannot_run(
        replace(subject, candidate=cpu_only, capabilities=declared),
        loaded_on_cpu().checkpoint.config,
    )
    assert reason == ("the candidate cannot run here: declared devices cpu, not cuda")


@pytest.fixture
def _no_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    right = importlib.util.find_spec

    def find(name: str, *more: Any) -> Any:
        return None if name == "accelerate" else right(name, *more)

    monkeypatch.setattr("importlib.util.find_spec", find)


@pytest.mark.usefixtures("_no_accelerate")
def test_one_device_needs_no_accelerate() -> None:
    assert list(answers(loaded_on_cpu(), [PROMPT], batch=1, longest=1))


@pytest.mark.usefixtures("_no_accelerate")
def test_several_devices_need_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(BadInput, match="device auto: expected accelerate"):
        load(FOLDER, dtype=torch.float32, device="auto")
