"""A candidate swapped in and out of layers and experts, between runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from mxmoe.conformance.registry import load_candidate
from mxmoe.evals.grade_school import frozen
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.inside.load import Loaded
from mxmoe.evals.inside.load import load
from mxmoe.evals.inside.swap import Swap
from mxmoe.evals.inside.swap import put_swappable
from mxmoe.reference.errors import BadInput

CLEAN = load_candidate("hf_experts", device="cpu")


class Doubles:
    """hf_experts, whose every result is twice as large."""

    name = "doubles"
    capabilities = CLEAN.candidate.capabilities

    def prepare(self, *arguments: Any) -> Any:
        return CLEAN.candidate.prepare(*arguments)

    def forward(self, *arguments: Any, tactic: object = None) -> torch.Tensor:
        out: torch.Tensor = 2 * CLEAN.candidate.forward(*arguments)
        return out


def plain() -> Loaded:
    return load(FOLDER, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def doubled() -> Swap:
    return put_swappable(plain(), replace(CLEAN, candidate=Doubles()))


@torch.inference_mode()
def logits(model: Loaded) -> torch.Tensor:
    problem = frozen.load_test_problems()[0]
    ids = model.tokenizer(problem.prompt, return_tensors="pt")["input_ids"]
    found: torch.Tensor = model.model(input_ids=ids).logits[0]
    return found


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative to the spread of the logits."""
    return float((found - wanted).square().mean().sqrt() / wanted.std())


# float32 sums in another order, through four layers; 2**-24 each.
SAME = 2.0**-16


def test_without_a_place_the_model_is_transformers_own(doubled: Swap) -> None:
    doubled.serve(())
    assert distance(logits(doubled.inside.loaded), logits(plain())) < SAME


def test_a_served_place_changes_the_model_and_the_others_do_not(doubled: Swap) -> None:
    model = doubled.inside.loaded
    doubled.serve(())
    clean = logits(model)
    found = {}
    for places in ([(1, 3)], [(1, 4)], [(1, 3), (1, 4)], doubled.everything):
        doubled.serve(places)
        found[len(found)] = distance(logits(model), clean)
    assert all(moved > SAME for moved in found.values())
    assert len(set(found.values())) == len(found)
    doubled.serve(())
    assert torch.equal(logits(model), clean)


def test_a_layer_served_by_both_is_the_sum_of_both(doubled: Swap) -> None:
    layer = doubled.layers[2]
    x = torch.randn(5, 192, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 1, 2, 3]]).expand(5, 4)
    weights = torch.full((5, 4), 0.25)
    parts = {}
    for served in ((), (1, 2), (0, 1, 2, 3)):
        doubled.serve([(2, expert) for expert in served])
        parts[served] = layer.forward(x, ids, weights)
    once = layer.reference.forward(x, ids, weights)
    of_two = layer.reference.forward(
        x, torch.where((ids == 1) | (ids == 2), ids, -1), weights
    )
    # float32 sums of 192 and 160 products in another order.
    near = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(parts[()], once)
    torch.testing.assert_close(parts[(1, 2)], once + of_two, **near)
    torch.testing.assert_close(parts[(0, 1, 2, 3)], 2 * once, **near)


def test_a_layer_that_the_candidate_does_not_serve_is_not_called(doubled: Swap) -> None:
    doubled.serve([(0, expert) for expert in range(8)])
    before = [layer.candidate.calls for layer in doubled.layers]
    logits(doubled.inside.loaded)
    calls = [layer.candidate.calls for layer in doubled.layers]
    assert [b - a for a, b in zip(before, calls, strict=True)] == [1, 0, 0, 0]


def test_a_place_outside_the_model_is_refused(doubled: Swap) -> None:
    with pytest.raises(BadInput, match=r"4 layers and 8 experts, found \(4, 0\)"):
        doubled.serve([(4, 0)])
