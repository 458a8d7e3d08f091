"""The smallest sets that delta debugging finds, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxmoe.evals.bisect.minimise import minimise


class Remembered:
    """A property of sets that is evaluated once for each."""

    def __init__(self, evaluate: Callable[[frozenset[int]], bool]) -> None:
        self.evaluate = evaluate
        self.known: dict[frozenset[int], bool] = {}

    def __call__(self, items: Iterable[int]) -> bool:
        key = frozenset(items)
        if key not in self.known:
            self.known[key] = self.evaluate(key)
        return self.known[key]

    @property
    def evaluations(self) -> int:
        return len(self.known)


@given(st.integers(1, 40), st.data())
def test_a_set_that_must_be_inside_is_found_exactly(count: int, data: object) -> None:
    guilty = data.draw(st.sets(st.integers(0, count - 1), min_size=1))  # type: ignore[attr-defined]
    holds = Remembered(lambda items: guilty <= items)
    assert minimise(range(count), holds) == sorted(guilty)


@given(st.integers(1, 12), st.randoms(use_true_random=False))
def test_whatever_the_property_no_element_can_be_left_out(
    count: int, random: object
) -> None:
    everything = frozenset(range(count))
    chosen: dict[frozenset[int], bool] = {everything: True}

    def evaluate(items: frozenset[int]) -> bool:
        return chosen.setdefault(items, random.random() < 0.3)  # type: ignore[attr-defined]

    holds = Remembered(evaluate)
    found = minimise(range(count), holds)
    assert chosen[frozenset(found)]
    if len(found) > 1:
        assert not any(holds(set(found) - {item}) for item in found)


@pytest.mark.parametrize("count", [4, 32, 36, 4608])
def test_one_guilty_element_costs_two_evaluations_a_halving(count: int) -> None:
    worst = 0
    for guilty in {0, 1, count // 3, count - 1}:
        holds = Remembered(lambda items, guilty=guilty: guilty in items)
        assert minimise(range(count), holds) == [guilty]
        worst = max(worst, holds.evaluations)
    assert worst <= 2 * math.ceil(math.log2(count))


def test_the_empty_set_is_never_asked() -> None:
    asked: list[int] = []

    def holds(items: object) -> bool:
        asked.append(len(list(items)))  # type: ignore[call-overload]
        return True

    assert len(minimise(range(9), holds)) == 1
    assert 0 not in asked
