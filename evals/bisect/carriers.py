"""A smallest set of layers, or experts, that the reference must compute for a right
model.

Two models are measured first: an honest candidate, which rounds as the class says,
everywhere (good), and the one in question everywhere (bad).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.subject import Subject
from mxmoe.evals.bisect.guilty_places import Search
from mxmoe.evals.bisect.guilty_places import half_way
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
    places found by one, none can be left out of that one. evaluations : of a model,
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
    measured = _Measured(
        swap=swap,
        exercise=exercise,
        options=options,
        good=good,
        heard=heard,
        known={frozenset(): bad},
    )
    most = math.log(exercise.wanted.shape[1])
    found = Search(
        everything=swap.everything,
        candidate=lambda replaced: measured.candidate(replaced).divergence,
        honest=lambda replaced: measured.honest(replaced).divergence,
        most=most,
        single=options.single,
    ).find()
    places = found.places
    return Carriers(
        layers=tuple(sorted({layer for layer, _ in places})),
        places=tuple(sorted(places)),
        good=good,
        bad=bad,
        half_way=half_way(good.divergence, bad.divergence, most=most),
        restored=measured.candidate(places) if places else None,
        alone=measured.candidate(swap.everything - places) if places else None,
        unvisited=len(swap.everything) - len(visited),
        tokens=exercise.tokens,
        passes=found.passes,
        evaluations=measured.evaluations,
    )


def _honest(options: Options) -> tuple[Exercise, Distance]:
    """The exercise, and what honest rounding everywhere makes of it."""
    problems = load_test_problems()[: options.questions]
    swap = _honest_swap(options)
    exercise = make_exercise(swap.inside.loaded, problems, lambda: swap.serve(()))
    swap.serve(swap.everything)
    return exercise, exercise.distance(swap.inside.loaded)


def _honest_swap(options: Options) -> Swap:
    subject = load_candidate(HONEST, device=options.device)
    return put_swappable(_load(options), subject)


@dataclass(eq=False, kw_only=True)
class _Measured:
    """Each distance is measured once. controls : of the honest candidate, beside a
    replaced set. before : evaluations that measured the ends.
    """

    swap: Swap
    exercise: Exercise
    options: Options
    good: Distance
    heard: Heard
    before: int = 3
    controls: int = 0
    known: dict[frozenset[Place], Distance] = field(default_factory=dict)

    @property
    def evaluations(self) -> int:
        """Of a model so far."""
        return self.before + len(self.known) + self.controls

    def candidate(self, replaced: frozenset[Place]) -> Distance:
        """With the reference in `replaced` and the candidate in all other places."""
        if replaced not in self.known:
            self.heard("measuring", self.evaluations)
            self.swap.serve(self.swap.everything - replaced)
            self.known[replaced] = self.exercise.distance(self.swap.inside.loaded)
        return self.known[replaced]

    def honest(self, replaced: frozenset[Place]) -> Distance:
        """The same of the honest candidate; its model is loaded anew, not kept."""
        if not replaced:
            return self.good
        self.heard("the honest candidate in the same places", self.evaluations)
        self.controls += 1
        swap = _honest_swap(self.options)
        swap.serve(swap.everything - replaced)
        return self.exercise.distance(swap.inside.loaded)


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
