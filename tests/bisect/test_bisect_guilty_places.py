"""Which places a search names, on divergences that are given."""

from __future__ import annotations

import math

import pytest

from mxmoe.evals.bisect.guilty_places import LEAST_RATIO
from mxmoe.evals.bisect.guilty_places import Guilty
from mxmoe.evals.bisect.guilty_places import Search
from mxmoe.evals.bisect.guilty_places import half_way
from mxmoe.evals.inside.swap import Place

EVERYTHING = frozenset((layer, expert) for layer in range(4) for expert in range(8))
ROUNDING = 1e-9


def search(
    *damage: tuple[Place, float], noisy: frozenset[Place] | None = None, single: bool
) -> Guilty:
    """Each place adds its damage while the candidate serves it; with the reference in
    `noisy`, a token's expert flips, and both the candidate and the honest one diverge.
    """

    def rounding(replaced: frozenset[Place]) -> float:
        flips = 2 * LEAST_RATIO if replaced == noisy else 1.0
        return ROUNDING * flips * (replaced != EVERYTHING)

    def candidate(replaced: frozenset[Place]) -> float:
        wrong = sum(size for place, size in damage if place not in replaced)
        return rounding(replaced) + wrong

    return Search(
        everything=EVERYTHING,
        candidate=candidate,
        honest=rounding,
        most=math.log(512),
        single=single,
    ).find()


@pytest.mark.parametrize("place", [(0, 0), (2, 5), (3, 7)])
def test_rounding_that_diverges_more_in_one_placement_accuses_no_other_place(
    place: Place,
) -> None:
    noisy = frozenset({place})
    found = search((place, 1e-4), noisy=noisy, single=True)
    assert found == Guilty(places=noisy, passes=1)


def test_a_small_fault_beside_a_large_one_is_found_in_another_pass() -> None:
    found = search(((0, 3), 1e-2), ((3, 1), 1e-6), single=True)
    assert found == Guilty(places=frozenset({(0, 3), (3, 1)}), passes=2)


def test_a_layer_is_replaced_with_all_its_experts() -> None:
    found = search(((1, 4), 1e-3), single=False)
    assert found.places == {place for place in EVERYTHING if place[0] == 1}


@pytest.mark.parametrize("times", [0.5, 2.0])
def test_the_least_ratio_decides_whether_anything_is_guilty(times: float) -> None:
    found = search(((1, 4), (times * LEAST_RATIO - 1) * ROUNDING), single=True)
    assert bool(found.places) == (times > 1)
    assert found.passes == (times > 1)


def test_a_model_that_is_not_finite_counts_as_one_that_guesses() -> None:
    found = search(((2, 2), math.inf), single=True)
    assert found.places == {(2, 2)}


def test_half_way_is_the_same_ratio_from_either_end() -> None:
    most = math.log(512)
    assert half_way(1e-8, 1e-2, most=most) == pytest.approx(1e-5)
    assert half_way(1e-8, math.inf, most=most) == half_way(1e-8, most, most=most)
