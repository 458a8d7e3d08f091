"""Why a traced stage is wrong: what else was made of the stage before it.

The first stage that leaves its bound is looked at, so what goes into it is right. The
result of a GEMM is held against matrices, biases and roundings that are otherwise; the
last stage is the output, which has a search of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from functools import partial
from itertools import chain

import torch

from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.causes import causes
from mxmoe.conformance.why_numbers.causes import has_lanes
from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.expert_content import Matrix
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.honest_size import likeliest
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.hypotheses import too_large
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.layer_steps import gated
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.otherwise.contents import contents_otherwise
from mxmoe.conformance.why_numbers.otherwise.steps import steps_otherwise
from mxmoe.conformance.why_numbers.slots.gathers import meanings
from mxmoe.conformance.why_numbers.slots.slot_sources import UNKNOWN
from mxmoe.conformance.why_numbers.slots.slot_sources import slot_sources
from mxmoe.conformance.why_numbers.slots.slot_sources import token_sources
from mxmoe.conformance.why_numbers.slots.tails import Gemm
from mxmoe.conformance.why_numbers.slots.tails import Tail
from mxmoe.conformance.why_numbers.slots.tails import tails_of
from mxmoe.conformance.why_numbers.stages.activation import explain_activation
from mxmoe.conformance.why_numbers.stages.moves import explain_moved_stage
from mxmoe.conformance.why_numbers.stages.parts import parts_otherwise
from mxmoe.reference.types import Arithmetic

Tensor = torch.Tensor
_TINY = torch.finfo(torch.float64).tiny
# A hypothesis with larger numbers may be off by more; with far larger ones it fits all.
_WIDEST = 16.0
_FORMATS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_MATRICES = ("gate_up", "down")
_OF_GEMM1 = "GEMM1 takes the hidden states"
# An index map of which more slots lie beyond the buffer tells little.
_UNKNOWN = 0.25
_OF_BOTH = ("both GEMMs", "gate_up and ")


def explain_stage(
    stage: str,
    stages: dict[str, Tensor],
    judged: Judged,
    s: Situation,
    arithmetic: Arithmetic,
) -> list[str]:
    """What `stages[stage]` behaves like, whose former stages are right; [] if unknown.

    stage : gate_up, activation, down or combine.
    """
    if not stages[stage].isfinite().all():
        return []
    if stage == "combine":
        return list(map(str, causes(s, judged, stages[stage], arithmetic)))

    def moved() -> list[str]:
        found = explain_moved_stage(stage, stages[stage], judged, s)
        return [f"{stage} {words}" for words in found]

    if stage == "activation":
        return explain_activation(stages, judged, s, arithmetic) or moved()
    if too_large(s.part) or not has_lanes(s.part):
        return moved()
    found = stages[stage].detach().cpu().double().reshape(judged.truth[stage].shape)
    wrong = _Stage(stage, found, stages, judged, Experts(s, arithmetic))
    return wrong.inside() or moved() or wrong.from_elsewhere()


class _Stage:
    """The result [t, k, rows] of one GEMM with its bias, and what went into it."""

    def __init__(
        self,
        stage: str,
        found: Tensor,
        stages: dict[str, Tensor],
        judged: Judged,
        experts: Experts,
    ) -> None:
        self._stage, self._found, self._experts = stage, found, experts
        self._truth, self._allowed = judged.truth[stage], judged.allowed[stage]
        lanes = judged.truth["activation"]
        # Of a stage that is wrong before the activation, nothing is known of that one.
        if stage == "down" and "activation" in stages:
            given = stages["activation"].detach().cpu().double()
        else:
            given = through(lanes, dtype=experts.arithmetic.intermediate)
        self._lanes = given.reshape(lanes.shape)
        self._ids = experts.situation.routing.ids - experts.first
        self._states = experts.situation.hidden_states.double()
        self._served = experts.served
        bad = (found - self._truth).abs() / self._allowed.clamp(min=_TINY)
        self._bad = (bad > 1).any(dim=2)
        worst = int(bad.amax(dim=2).argmax())
        self._worst = divmod(worst, bad.shape[1])

    def inside(self) -> list[str]:
        """What is done otherwise in the step, by what is right."""
        count = {
            m: getattr(self._experts.situation.part, f"{m}_blocks").shape[2]
            for m in _MATRICES
        }
        steps = chain(steps_otherwise(count), contents_otherwise(count))
        return self._likeliest([*self._stored(), *self._named(steps)])

    def from_elsewhere(self) -> list[str]:
        """What was taken from another place: weights, rows, what lies behind K."""
        s, arithmetic = self._experts.situation, self._experts.arithmetic
        kinds: tuple[Callable[[], Iterator[Fit]], ...] = (
            lambda: self._named(parts_otherwise(s, arithmetic)),
            self._rows,
            self._tails,
        )
        return self._likeliest(next(filter(None, (list(kind()) for kind in kinds)), []))

    def _likeliest(self, fits: list[Fit]) -> list[str]:
        right = self._of_all(partial(self._hypothetical, RIGHT))
        error = self._found - self._truth
        left = part_left(self._found - right, error, self._allowed)
        found = likeliest(fits, self._found.numel(), min(left, 1.0))
        return [str(fit) for fit in found]

    def _named(self, hypotheses: Iterable[Otherwise]) -> Iterator[Fit]:
        for hypothesis in hypotheses:
            if _is_of_one_stage(hypothesis) and self._may_be(hypothesis):
                yield from self._held(hypothesis)

    def _rows(self) -> Iterator[Fit]:
        """Rows of other tokens or slots that were multiplied."""
        ids, (token, slot) = self._experts.situation.routing.ids, self._worst
        down = self._stage == "down"
        table = self._lanes.flatten(0, 1) if down else self._states
        thing = "GEMM2 takes the intermediate" if down else _OF_GEMM1
        local = int(self._ids[token, slot])
        if not self._served[token, slot]:
            return
        sources = slot_sources(ids) if down else token_sources(ids, table.shape[1])
        for words, flat in sources:
            source = flat.reshape(ids.shape)
            known = (source != UNKNOWN) | ~self._served
            row, at = int(source[token, slot]), self._worst
            if row == UNKNOWN or float((~known).double().mean()) > _UNKNOWN:
                continue
            told = self._made(RIGHT, local, table[row][None])
            if not self._within(self._found[at], told[0], self._truth[at], at):
                continue
            taken = table[source.clamp(min=0)]
            made = self._of_all(partial(self._of_rows, taken))
            name = f"{thing} of {words}, not its own{meanings(words)}"
            yield from self._fit(name, made, known)

    def _tails(self) -> Iterator[Fit]:
        """Columns behind K that were multiplied."""
        gemm = Gemm(self._experts, self._stage, lanes=self._lanes)
        for tail in tails_of(gemm):
            known = gemm.known(tail)
            if not bool((known[:, None] & self._bad).any()):
                continue
            made = self._of_all(partial(self._with_tail, gemm, tail))
            yield from self._fit(tail.words, made, known[:, None] | ~self._served)

    def _of_rows(self, rows: Tensor, local: int, mine: Tensor) -> Tensor:
        return self._made(RIGHT, local, rows[mine])

    def _with_tail(self, gemm: Gemm, tail: Tail, local: int, mine: Tensor) -> Tensor:
        matrix: Matrix = getattr(self._experts.content(local), self._stage)
        return gemm.product(tail, local, mine) + matrix.bias

    def _of_all(self, make: Callable[[int, Tensor], Tensor]) -> Tensor:
        """What each expert makes of its slots: [t, k, rows], 0 where none does."""
        told = torch.zeros_like(self._found)
        for local in self._experts.visited():
            mine = self._ids == local
            told[mine] = make(local, mine)
        return told

    def _fit(self, name: str, told: Tensor, known: Tensor) -> Iterator[Fit]:
        """It, if it is right in the slots [t, k] that are known."""
        found, told_there = self._found[known], told[known]
        if self._within(found, told_there, self._truth[known], known):
            # What lies beyond a buffer is left unexplained.
            before = self._found - self._truth
            rest = torch.where(known[..., None], self._found - told, before)
            yield Fit(name, part_left(rest, before, self._allowed))

    def _stored(self) -> Iterator[Fit]:
        for name, dtype in _FORMATS.items():
            if not torch.equal(through(self._found, dtype=dtype), self._found):
                continue
            room = self._allowed + half_ulp(self._truth.abs() + self._allowed, dtype)
            if bool(((self._found - self._truth).abs() <= room).all()):
                yield Fit(f"{self._stage} rounded to {name} with its bias", 0.0)

    def _may_be(self, hypothesis: Otherwise) -> bool:
        """Whether it gives the slot that is furthest off."""
        token, slot = self._worst
        local = int(self._ids[token, slot])
        if not 0 <= local < self._experts.count:
            return False
        told = self._made(hypothesis, local, self._given(token, slot))
        at = self._worst
        return self._within(self._found[at], told[0], self._truth[at], at)

    def _given(self, token: int, slot: int) -> Tensor:
        if self._stage == "down":
            return self._lanes[token, slot][None]
        return self._states[token][None]

    def _held(self, hypothesis: Otherwise) -> Iterator[Fit]:
        """It everywhere, else in the experts that are wrong somewhere."""
        told = self._of_all(partial(self._hypothetical, hypothesis))
        guilty = torch.isin(self._ids, self._ids[self._bad].unique())
        which = (self._ids[self._bad].unique() + self._experts.first).tolist()
        words = f", in expert{'s' * (len(which) > 1)} {', '.join(map(str, which))} only"
        part = torch.where(guilty[..., None], told, self._truth)
        for place, values in (("", told), (words, part)):
            if self._within(self._found, values, self._truth, slice(None)):
                left = self._found - values
                before = self._found - self._truth
                left_part = part_left(left, before, self._allowed)
                yield Fit(hypothesis.name, left_part, place=place)
                return

    def _hypothetical(self, what: Otherwise, local: int, mine: Tensor) -> Tensor:
        """What one expert makes of the rows of its slots."""
        down = self._stage == "down"
        rows = self._lanes[mine] if down else self._states[mine.nonzero()[:, 0]]
        return self._made(what, local, rows)

    def _within(
        self,
        found: Tensor,
        told: Tensor,
        truth: Tensor,
        at: tuple[int, int] | slice | Tensor,
    ) -> bool:
        size = truth.norm(dim=-1, keepdim=True).clamp(min=_TINY)
        growth = (told.norm(dim=-1, keepdim=True) / size).clamp(max=_WIDEST)
        rounding = half_ulp(told, self._experts.arithmetic.slot)
        room = self._allowed[at] * (1 + growth) + rounding
        return bool(((found - told).abs() <= room).all())

    def _made(self, hypothesis: Otherwise, local: int, rows: Tensor) -> Tensor:
        """What one expert makes of rows [n, h] or [n, i]."""
        content, steps = hypothesis.edit(self._experts, local), hypothesis.steps
        if self._stage == "gate_up":
            z = _product(steps.x(rows), content.gate_up, steps.first, steps.product1)
            return steps.z(z) + content.gate_up.bias
        y = steps.v(_product(rows, content.down, steps.last, steps.product2))
        store = steps.y or partial(through, dtype=self._experts.arithmetic.slot)
        return store(y + steps.down_bias(content.down.bias))


def _is_of_one_stage(hypothesis: Otherwise) -> bool:
    """Whether no stage behind a GEMM is needed to tell it from a simpler one."""
    both = any(words in hypothesis.name for words in _OF_BOTH)
    return not both and hypothesis.steps.gated is gated


def _product(
    x: Tensor,
    w: Matrix,
    columns: Callable[[int], int],
    otherwise: Callable[[Tensor, Tensor], Tensor] | None,
) -> Tensor:
    if otherwise is not None:
        return otherwise(x, w.dense)
    k = columns(x.shape[1])
    return w.times(x) if k == x.shape[1] else x[:, :k] @ w.dense[:, :k].T
