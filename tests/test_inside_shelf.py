"""Prepared layers are kept as far as there is room, and made again beyond it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from mxmoe.conformance.registry import load_candidate
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.inside import experts as inside_experts
from mxmoe.evals.inside.load import load
from mxmoe.evals.inside.proof import proof
from mxmoe.evals.inside.shelf import Shelf
from mxmoe.evals.inside.shelf import held_bytes
from mxmoe.evals.inside.swap import Swap
from mxmoe.evals.inside.swap import put_swappable

SIZE = 1000


class Maker:
    """Makes SIZE bytes of each layer, and counts."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, layer: int) -> Callable[[], torch.Tensor]:
        def make() -> torch.Tensor:
            self.made.append(layer)
            return torch.full((SIZE,), layer, dtype=torch.uint8)

        return make


@pytest.mark.parametrize(
    ("room", "made"),
    [
        (math.inf, [0, 1, 2]),
        (3 * SIZE, [0, 1, 2]),
        # The first stays; of the others the one that was asked for last.
        (2 * SIZE - 1, [0, 1, 2, 1, 2]),
        (0, [0, 1, 2, 0, 1, 2]),
    ],
)
def test_what_does_not_fit_is_made_again(room: float, made: list[int]) -> None:
    shelf, maker = Shelf(room=room), Maker()
    for layer in (0, 1, 2, 2, 0, 1, 1, 2):
        assert int(shelf.get(layer, maker(layer))[0]) == layer
    assert maker.made == made


def test_nothing_is_held_beside_what_is_made_instead() -> None:
    shelf, maker = Shelf(room=0), Maker()
    shelf.get(0, maker(0))
    held: list[int] = []

    def make() -> torch.Tensor:
        held.append(held_bytes(shelf))
        return torch.zeros(SIZE)

    shelf.get(1, make)
    assert held == [0]


@dataclass(frozen=True)
class Holder:
    one: torch.Tensor
    others: list[Any]


def test_each_tensor_counts_once_wherever_it_lies() -> None:
    a, b = torch.zeros(SIZE, dtype=torch.uint8), torch.zeros(3, dtype=torch.float32)
    assert held_bytes(Holder(a, [{"b": b}, (a, "text", None)])) == SIZE + 12


def swap_of(subject: Any, room: float) -> Swap:
    loaded = load(FOLDER, dtype=torch.float32, device="cpu", experts=False)
    return put_swappable(loaded, subject, room=room)


class Counts:
    """trtllm_gen, which counts its preparations and loads."""

    def __init__(self) -> None:
        self.inner = load_candidate("trtllm_gen").candidate
        self.prepared = self.loaded = 0

    def prepare(self, *arguments: Any) -> Any:
        self.prepared += 1
        return self.inner.prepare(*arguments)

    def load(self, *arguments: Any) -> Any:
        self.loaded += 1
        return self.inner.load(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@torch.inference_mode()
def logits(swap: Swap) -> torch.Tensor:
    ids = torch.arange(5, 17)[None]
    found: torch.Tensor = swap.inside.loaded.model(input_ids=ids).logits
    return found


def test_a_model_without_room_says_the_same_with_each_call_counted() -> None:
    subject = load_candidate("trtllm_gen", device="cpu")
    roomy, narrow = Counts(), Counts()
    found = []
    for counts, room in ((roomy, math.inf), (narrow, 0)):
        swap = swap_of(replace(subject, candidate=counts), room)
        swap.serve([(layer, e) for layer in range(4) for e in range(4)])
        found.append(logits(swap))
        assert proof(swap.inside.passes, swap.inside.experts).layer_calls == (1,) * 4
    assert torch.equal(*found)
    assert roomy.prepared == roomy.loaded == 4
    assert narrow.prepared == 4 + 4


def test_a_large_layer_is_given_as_it_was_prepared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inside_experts, "small_enough", lambda *shape: False)
    counts = Counts()
    subject = load_candidate("trtllm_gen", device="cpu")
    swap_of(replace(subject, candidate=counts), 2.0**30)
    assert (counts.prepared, counts.loaded) == (4, 0)
    swap_of(replace(subject, candidate=counts), math.inf)
    assert (counts.prepared, counts.loaded) == (8, 4)
