"""The search for places whose replacement by the reference restores a model.

Half way between good and bad is the geometric mean of their divergences: of two guilty
layers of which one does a tenth of the damage, the mean would let that one go. What is
left when a set is replaced is searched again, from there.

Rounding alone flips a router's choice of a token here and there, and one such token
outweighs hundreds of others. So the honest divergence of one placement is many times
that of another, and what is left is compared with the honest candidate in the same
placement, not with the honest candidate everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass

from mxmoe.evals.bisect.minimise import minimise
from mxmoe.evals.inside.swap import Place

# Divergence falls with the square of an error: one twice as large as honest rounding
# in every layer is a kernel of another class, not a fault in some of them.
LEAST_RATIO = 4.0

Divergence = Callable[[frozenset[Place]], float]
"""Of a model in which the reference computes these places, in nats a token."""


def is_guilty(divergence: float, *, honest: float) -> bool:
    """Whether rounding in the same places does not explain `divergence`."""
    return divergence >= LEAST_RATIO * honest


def half_way(good: float, bad: float, *, most: float) -> float:
    """The geometric mean. most : what counts for a model that is not finite."""
    return math.sqrt(good * min(bad, most))


@dataclass(frozen=True, kw_only=True)
class Guilty:
    """places : that the reference must compute. passes : searches that found some; of
    the places found by one, none can be left out of that one.
    """

    places: frozenset[Place]
    passes: int


@dataclass(eq=False, kw_only=True)
class Search:
    """everything : all places. candidate, honest : divergence with the rest served by
    the candidate, by an honest one. most : as in `half_way`. single : the places are
    experts, not layers with all their experts.
    """

    everything: frozenset[Place]
    candidate: Divergence
    honest: Divergence
    most: float
    single: bool

    def find(self) -> Guilty:
        """A smallest set; no place if rounding explains what is measured."""
        replaced: frozenset[Place] = frozenset()
        passes = 0
        good, left = self.honest(replaced), self.candidate(replaced)
        while is_guilty(left, honest=good) and replaced != self.everything:
            replaced |= self._smallest(replaced, half_way(good, left, most=self.most))
            left, passes = self.candidate(replaced), passes + 1
            if is_guilty(left, honest=good):
                good = self.honest(replaced)
        return Guilty(places=replaced, passes=passes)

    def _smallest(self, replaced: frozenset[Place], limit: float) -> frozenset[Place]:
        """What must be replaced besides `replaced` for a divergence within `limit`."""

        def restores(places: Iterable[Place]) -> bool:
            return self.candidate(replaced.union(places)) <= limit

        rest = self.everything - replaced
        layers = minimise(
            sorted({layer for layer, _ in rest}),
            lambda some: restores(self._of(some)),
        )
        places = self._of(layers) - replaced
        return frozenset(minimise(sorted(places), restores) if self.single else places)

    def _of(self, layers: Iterable[int]) -> frozenset[Place]:
        chosen = set(layers)
        return frozenset(place for place in self.everything if place[0] in chosen)
