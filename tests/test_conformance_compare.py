"""Found numbers against a bound, and the words for where the damage lies."""

from __future__ import annotations

import pytest
import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.compare_numbers import damage
from mxmoe.reference.types import Routing


def bad(*places: tuple[object, object]) -> torch.Tensor:
    mask = torch.zeros(6, 16, dtype=torch.bool)
    for place in places:
        mask[place] = True
    return mask


EVERY = slice(None)
TO_EXPERTS = Routing(
    torch.tensor([[0, 1], [2, 3], [0, 2], [1, 3], [2, -1], [3, 1]]), torch.ones(6, 2)
)


@pytest.mark.parametrize(
    ("mask", "phrase"),
    [
        (bad((2, 3)), "a single element"),
        (bad((5, 15)), "a single element"),
        (bad((EVERY, EVERY)), "every token and column"),
        (bad((EVERY, slice(12, 16))), "trailing columns 12..15 of every token: "),
        (bad((slice(2, 4), slice(12, 16))), "trailing columns 12..15 of 2 of 6 tokens"),
        (bad((3, EVERY)), "token 3 only"),
        (bad((3, 2), (3, 5)), "token 3 only"),
        (bad((0, EVERY), (2, EVERY)), "exactly the tokens that visit expert 0"),
        (bad((slice(2, 6), EVERY)), "tokens 2..5, every column"),
        (bad((1, EVERY), (2, EVERY)), "2 of 6 tokens, every column"),
        (bad((EVERY, slice(1, 16))), "every token in 15 of 16 columns"),
        (bad((EVERY, 3)), "every token in 1 of 16 columns"),
        (bad((1, 3), (4, 7)), "scattered over 2 tokens and 2 columns"),
    ],
)
def test_the_shape_of_the_damage_is_named(mask: torch.Tensor, phrase: str) -> None:
    assert damage(mask, TO_EXPERTS).startswith(phrase)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_within_no_bound(value: float) -> None:
    found = torch.tensor([[1.0, value]])
    difference = compare_numbers(found, torch.ones(1, 2), torch.full((1, 2), torch.inf))
    assert not difference.within
    assert difference.at == (0, 1)
    assert difference.nonfinite == 1


def test_a_bound_of_zero_allows_what_is_equal_and_no_more() -> None:
    truth, allowed = torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2)
    assert compare_numbers(truth.float(), truth, allowed).within
    assert not compare_numbers(truth.float() + 1e-30, truth, allowed).within


def test_nothing_is_out_of_bound_in_an_empty_output() -> None:
    empty = torch.zeros(0, 4)
    assert compare_numbers(empty, empty, empty).within
