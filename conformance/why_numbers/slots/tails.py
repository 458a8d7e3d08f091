"""Why an output is wrong: a GEMM reads on behind the end of K.

A K loop in steps of 64, 128 or 256 whose last step is not masked multiplies what lies
behind a row. Of the weights that is the next row, of the other operand the next row of
memory: the next token's or slot's, or the next of the same expert's. An index that is
taken modulo K begins the row again. Where one operand is masked, its zeros hide what
the other one reads: nothing is wrong then.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from functools import partial

import torch

from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.expert_content import Matrix
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.otherwise.one_thing import Wrong
from mxmoe.conformance.why_numbers.slots.gathers import rest_of_error
from mxmoe.conformance.why_numbers.slots.slot_sources import UNKNOWN

Tensor = torch.Tensor
_UNITS = (64, 128, 256)
# Elements that are multiplied in all; more would take a second.
_LARGEST = 2**27
_TINY = torch.finfo(torch.float64).tiny


def explain_tails(wrong: Wrong) -> list[Fit]:
    """Each end of K that is read over, if that makes the output right."""
    experts = wrong.experts
    s, bad = experts.situation, wrong.bad.any(dim=1)
    size = s.routing.ids.numel() * (s.part.gate_up_blocks[0].numel() * 32)
    if not wrong.found.isfinite().all() or not bad.any() or size > _LARGEST:
        return []
    error = (wrong.found - wrong.right).abs()
    ratio = (error / wrong.allowed.clamp(min=_TINY)).amax(dim=1)
    fits = []
    for gemm in (Gemm(experts, "gate_up"), Gemm(experts, "down")):
        for tail in tails_of(gemm):
            known = gemm.known(tail)
            if not bool((known & bad).any()):
                continue
            # The worst token of which all is known refutes almost all.
            worst = torch.zeros_like(known)
            worst[int(ratio.masked_fill(~known, -1).argmax())] = True
            if rest_of_error(wrong, gemm.slots(tail, worst), worst) is None:
                continue
            left = rest_of_error(wrong, gemm.slots(tail, known), known)
            fits += [] if left is None else [Fit(tail.words, left)]
    return fits


@dataclass(frozen=True, kw_only=True)
class Tail:
    """over : columns that are read behind K.

    source : whose row lies n rows behind that of each slot, [t, k]; `UNKNOWN` beyond
    memory. weights : the products [n, rows] of rows [n, over] with an expert's tail.
    """

    words: str
    over: int
    source: Callable[[int], Tensor]
    weights: Callable[[Experts, int, Tensor, int], Tensor]


class Gemm:
    """One GEMM of a layer that is right but for the tail of its K.

    lanes : what the second one is given, [t, k, i], if it is known.
    """

    def __init__(
        self, experts: Experts, matrix: str, lanes: Tensor | None = None
    ) -> None:
        self._experts, self.matrix, self._lanes = experts, matrix, lanes
        self.first = matrix == "gate_up"
        self.ids = experts.situation.routing.ids - experts.first

    @cached_property
    def given(self) -> Tensor:
        """The rows that it multiplies, [n, K]: of tokens, or of slots."""
        experts, x = self._experts, self._experts.situation.hidden_states.double()
        if self.first:
            return x
        if self._lanes is not None:
            return self._lanes.flatten(0, 1)
        lanes = experts.situation.part.down_scales.shape[2] * 32
        found = x.new_zeros(*self.ids.shape, lanes)
        for local in experts.visited():
            mine, rows = experts.visit(local)
            content = experts.content(local)
            found[mine] = experts.intermediate(content, RIGHT.steps, rows)
        return found.flatten(0, 1)

    @cached_property
    def own(self) -> Tensor:
        """Which of them is each slot's, [t, k]."""
        n = torch.arange(self.ids.numel()).reshape(self.ids.shape)
        return n // self.ids.shape[1] if self.first else n

    @property
    def written(self) -> Tensor:
        """Which of them there are, [n]."""
        if self.first:
            return torch.ones(len(self.given), dtype=torch.bool)
        return self._experts.served.flatten()

    def known(self, tail: Tail) -> Tensor:
        """The tokens [t] of which all that is read is known."""
        known = torch.ones(len(self.ids), dtype=torch.bool)
        for n in range(1, self.rows_read(tail.over) + 1):
            beyond = (tail.source(n) == UNKNOWN) & self._experts.served
            known &= ~beyond.any(dim=1)
        return known

    def rows_read(self, over: int) -> int:
        """How many rows so many columns behind K are part of."""
        return -(-over // self.given.shape[1])

    def slots(self, tail: Tail, at: Tensor) -> Tensor:
        """What the slots of tokens `at` [t] add, [t, k, h]; 0 of the others."""
        experts = self._experts
        hidden = experts.situation.hidden_states
        found = torch.zeros(*self.ids.shape, hidden.shape[1], dtype=torch.float64)
        for local in experts.visited():
            mine = (self.ids == local) & at[:, None]
            if mine.any():
                made, content = self.product(tail, local, mine), experts.content(local)
                if self.first:
                    a = experts.activated(made, content)
                    found[mine] = experts.down(content, a)
                else:
                    found[mine] = experts.finished(made, content)
        return experts.weights[..., None] * found

    def product(self, tail: Tail, local: int, mine: Tensor) -> Tensor:
        """What this GEMM of one expert gives for the slots `mine`, without its bias."""
        experts, k = self._experts, self.given.shape[1]
        matrix: Matrix = getattr(experts.content(local), self.matrix)
        found = self.given[self.own[mine]] @ matrix.dense.T
        for n in range(1, self.rows_read(tail.over) + 1):
            count = min(k, tail.over - (n - 1) * k)
            behind = self.given[tail.source(n)[mine].clamp(min=0), :count]
            found = found + tail.weights(experts, local, behind, n)
        return found


def tails_of(gemm: Gemm) -> Iterator[Tail]:
    """Each way to read over the end of K."""
    k, number = gemm.given.shape[1], 1 if gemm.first else 2
    overs: dict[int, list[str]] = {}
    for unit in _UNITS:
        overs.setdefault(-k % unit, []).append(str(unit))
    for over, units in overs.items():
        if not over:
            continue
        behind = (
            f"GEMM{number} reads {over} columns behind K, up to a multiple of "
            f"{' or '.join(units)}:"
        )
        for whose, source in _sources(gemm):
            for what, weights in _weights(gemm.matrix):
                words = f"{behind} those of {whose} and of {what}"
                yield Tail(words=words, over=over, source=source, weights=weights)


def _sources(gemm: Gemm) -> Iterator[tuple[str, Callable[[int], Tensor]]]:
    """(words, whose row lies n rows behind each slot's)."""
    own, count = gemm.own, len(gemm.given)
    in_memory = "the next token" if gemm.first else "the next slot"
    # The intermediate of a slot that is not served is not written, nor what is behind.
    written = torch.cat((gemm.written, torch.tensor([False])))

    def next_row(n: int) -> Tensor:
        return torch.where(written[(own + n).clamp(max=count)], own + n, UNKNOWN)

    def next_of_expert(n: int) -> Tensor:
        found = torch.full_like(own, UNKNOWN)
        for local in gemm.ids.unique().tolist():
            mine = gemm.ids == local
            there = own[mine]
            found[mine] = torch.cat((there[n:], torch.full_like(there[:n], UNKNOWN)))
        return found

    yield in_memory, next_row
    yield "the next row of its expert", next_of_expert
    yield "its own row again", lambda n: own


_Products = Callable[[Experts, int, Tensor, int], Tensor]


def _weights(matrix: str) -> Iterator[tuple[str, _Products]]:
    """(words, the products of rows [n, over] with what lies behind an expert's rows).

    Behind the last row of an expert lie the next expert's, or its own first, or 0.
    """

    def of(experts: Experts, local: int) -> Matrix:
        matrix_of: Matrix = getattr(experts.content(local), matrix)
        return matrix_of

    def rows(experts: Experts, local: int, x: Tensor, n: int, *, end: str) -> Tensor:
        y = x @ of(experts, local).dense[:, : x.shape[1]].T
        last = y[:, :n]
        if end == "of the next expert":
            after = of(experts, (local + 1) % experts.count).dense
            last = x @ after[:n, : x.shape[1]].T
        elif end == "0":
            last = torch.zeros_like(last)
        return torch.cat((y[:, n:], last), dim=1)

    for end in ("of the next expert", "0", "its own"):
        yield "the next weight row", partial(rows, end=end)
    yield (
        "its own weight row again",
        lambda experts, local, x, n: x @ of(experts, local).dense[:, : x.shape[1]].T,
    )
