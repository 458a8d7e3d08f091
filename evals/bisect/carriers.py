"""A smallest set of layers, or experts, that the reference must compute for a right
model.

Two models are measured first: an honest candidate, which rounds as the class says,
everywhere (good), and the one in question everywhere (bad). Half way between them is
the geometric mean of their divergences: of two guilty layers of which one does a tenth
of the damage, the mean would let that one go.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.subject import Subject
from mxmoe.evals.bisect.minimise import minimise
from mxmoe.evals.bisect.teacher_forced import Distance
from mxmoe.evals.bisect.teacher_forced import Exercise
from mxmoe.evals.bisect.teacher_forced import make_exercise
from mxmoe.evals.gate.planted import load_base
from mxmoe.evals.gate.planted import plant
from mxmoe.evals.grade_school.frozen import load_test_problems
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.inside.load import DTYPES
from mxmoe.evals.inside.load import Loaded
from mxmoe.evals.inside.load import load
from mxmoe.evals.inside.swap import Place
from mxmoe.evals.inside.swap import Swap
from mxmoe.evals.inside.swap import put_swappable

# Plain PyTorch, bf16 where class w4a16_fp32acc rounds.
HONEST = "torch_dense"
# Divergence falls with the square of an error: one twice as large as honest rounding
# in every layer is a kernel of another class, not a fault in some of them.
LEAST_RATIO = 4.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `mxmoe bisect --layers` was asked for. single : experts, not layers."""

    candidate: str
    fault: str | None = None
    model: Path = FOLDER
    device: str = "cpu"
    questions: int = 16
    single: bool = False


@dataclass(frozen=True, kw_only=True)
class Carriers:
    """layers, places : that the reference must compute; empty if nothing is wrong.

    good, bad : the honest candidate's and the candidate's distance from the reference.
    half_way : divergence. restored : with the reference in the set. alone : with the
    candidate in the set, and the reference everywhere else. unvisited : experts that
    no token of the questions reaches. passes : searches that found something; of the
    places found by one, none can be left out of that one. evaluations : of the model,
    the ends included.
    """

    layers: tuple[int, ...]
    places: tuple[Place, ...]
    good: Distance
    bad: Distance
    half_way: float
    restored: Distance | None
    alone: Distance | None
    unvisited: int
    tokens: int
    passes: int
    evaluations: int


Heard = Callable[[str, int], None]
"""What is being looked for, and how many evaluations there were."""


def find_carriers(options: Options, heard: Heard = lambda doing, n: None) -> Carriers:
    """Measure the ends, then minimise. Raises `BadInput` for what cannot be loaded."""
    subject = _subject(options)
    heard("the honest candidate", 0)
    exercise, good = _honest(options)
    swap = put_swappable(_load(options), subject)
    visited = _visited(swap, exercise)
    heard("the candidate everywhere", 2)
    swap.serve(swap.everything)
    bad = exercise.distance(swap.inside.loaded)
    search = _Search(swap=swap, exercise=exercise, heard=heard, before=4)
    found = Carriers(
        layers=(),
        places=(),
        good=good,
        bad=bad,
        half_way=half_way(good, bad, vocabulary=exercise.wanted.shape[1]),
        restored=None,
        alone=None,
        unvisited=len(swap.everything) - len(visited),
        tokens=exercise.tokens,
        passes=0,
        evaluations=4,
    )
    if bad.divergence < LEAST_RATIO * good.divergence:
        return found
    return search.find(found, single=options.single)


def _honest(options: Options) -> tuple[Exercise, Distance]:
    """The exercise, and what honest rounding everywhere makes of it."""
    problems = load_test_problems()[: options.questions]
    subject = load_candidate(HONEST, device=options.device)
    swap = put_swappable(_load(options), subject)
    exercise = make_exercise(swap.inside.loaded, problems, lambda: swap.serve(()))
    swap.serve(swap.everything)
    return exercise, exercise.distance(swap.inside.loaded)


def half_way(good: Distance, bad: Distance, *, vocabulary: int) -> float:
    """The geometric mean; a model that is not finite counts as one that guesses."""
    worst = min(bad.divergence, math.log(vocabulary))
    return math.sqrt(good.divergence * worst)


@dataclass(eq=False, kw_only=True)
class _Search:
    """measured : the distance with the reference in a set of places, once for each."""

    swap: Swap
    exercise: Exercise
    heard: Heard
    before: int
    measured: dict[frozenset[Place], Distance] = field(default_factory=dict)

    def find(self, found: Carriers, *, single: bool) -> Carriers:
        """`found` with what is guilty.

        A small fault beside a large one lies on the good side of half way: what is
        left when the large one is replaced is searched again, from there.
        """
        replaced: frozenset[Place] = frozenset()
        left, passes = found.bad, 0
        least = LEAST_RATIO * found.good.divergence
        while left.divergence >= least and replaced != self.swap.everything:
            limit = self._half_way(found.good, left)
            replaced |= self._smallest(replaced, limit, single=single)
            left, passes = self._distance(replaced), passes + 1
        alone = self._distance(self.swap.everything - replaced)
        return replace(
            found,
            layers=tuple(sorted({layer for layer, _ in replaced})),
            places=tuple(sorted(replaced)),
            restored=left,
            alone=alone,
            passes=passes,
            evaluations=self.before + len(self.measured),
        )

    def _smallest(
        self, replaced: frozenset[Place], limit: float, *, single: bool
    ) -> frozenset[Place]:
        """What must be replaced besides `replaced` for a divergence within `limit`."""

        def restores(places: Iterable[Place]) -> bool:
            return self._distance(replaced.union(places)).divergence <= limit

        rest = self.swap.everything - replaced
        layers = minimise(
            sorted({layer for layer, _ in rest}),
            lambda some: restores(self._of(some)),
        )
        places = self._of(layers) - replaced
        return frozenset(minimise(sorted(places), restores)) if single else places

    def _half_way(self, good: Distance, bad: Distance) -> float:
        return half_way(good, bad, vocabulary=self.exercise.wanted.shape[1])

    def _of(self, layers: Iterable[int]) -> frozenset[Place]:
        chosen = set(layers)
        return frozenset(place for place in self.swap.everything if place[0] in chosen)

    def _distance(self, replaced: frozenset[Place]) -> Distance:
        if replaced not in self.measured:
            self.heard("measuring", self.before + len(self.measured))
            self.swap.serve(self.swap.everything - replaced)
            self.measured[replaced] = self.exercise.distance(self.swap.inside.loaded)
        return self.measured[replaced]


def _visited(swap: Swap, exercise: Exercise) -> set[Place]:
    """The places that tokens of the exercise reach, with the reference everywhere."""
    visited: set[Place] = set()
    swap.serve(())
    for number, layer in enumerate(swap.layers):

        def hear(
            x: object, ids: Tensor, w: object, out: object, number: int = number
        ) -> None:
            visited.update((number, int(e)) for e in ids.unique() if e >= 0)

        layer.heard = hear
    exercise.distance(swap.inside.loaded)
    for layer in swap.layers:
        layer.heard = None
    return visited


def _load(options: Options) -> Loaded:
    dtype = DTYPES["float32"]
    return load(options.model, dtype=dtype, device=options.device, experts=False)


def _subject(options: Options) -> Subject:
    subject = load_base(options.candidate, device=options.device)
    if options.fault is None:
        return subject
    planted = plant(options.fault, subject)
    return replace(planted, device_request=subject.device_request)
