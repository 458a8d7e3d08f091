"""Why an output is wrong: a GEMM reads on behind the end of K.

A K loop in steps of 64, 128 or 256 whose last step is not masked multiplies what lies
behind a row: of the weights the next row, of the other operand the next row of memory,
which is the next token's or the next of the same expert's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace
from functools import partial

import torch

from mxmoe.conformance.why_numbers.expert_content import Content
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.gathers import rest_of_error
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import gated
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.otherwise import Wrong

Tensor = torch.Tensor
_UNITS = (64, 128, 256)
# Elements that are multiplied in all; more would take a second.
_LARGEST = 2**27
_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, kw_only=True)
class _Tail:
    """first, last : columns that GEMM1 and GEMM2 read behind K.

    of_expert : rows lie in memory as those of one expert, not as all tokens. around :
    behind the last weight row of an expert lies its first, not the next expert's.
    again : GEMM2 reads the same row again, not what lies behind it.
    """

    first: int
    last: int
    of_expert: bool
    around: bool
    again: bool

    def rows(self, experts: Experts, local: int, x: Tensor, behind: Tensor) -> Tensor:
        """What the expert makes of rows [n, h], behind which `behind` [n, h] lie."""
        content = experts.content(local)
        other = content if self.around else experts.content((local + 1) % experts.count)
        w1, w2 = (partial(_next_rows, own=content, other=other)(n) for n in _MATRICES)
        z = x @ content.gate_up.dense.T
        z = z + behind[:, : self.first] @ w1[:, : self.first].T
        a = gated(z, content.gate_up.bias, experts.situation.config.activation)
        a = through(a, dtype=experts.arithmetic.intermediate)
        y = a @ content.down.dense.T + content.down.bias
        behind = a if self.again else a.roll(-1, 0)
        y = y + behind[:, : self.last] @ w2[:, : self.last].T
        return through(y, dtype=experts.arithmetic.slot)


_MATRICES = ("gate_up", "down")


def _next_rows(name: str, *, own: Content, other: Content) -> Tensor:
    rows: Tensor = getattr(own, name).dense
    return torch.cat((rows[1:], getattr(other, name).dense[:1]))


def explain_tails(wrong: Wrong) -> list[Fit]:
    """Each end of K that is read over, if that makes the output right."""
    experts = wrong.experts
    s, bad = experts.situation, wrong.bad.any(dim=1)
    size = s.routing.ids.numel() * (s.part.gate_up_blocks[0].numel() * 32)
    if not wrong.found.isfinite().all() or not bad.any() or size > _LARGEST:
        return []
    fits = []
    for name, tail in _tails(
        s.hidden_states.shape[1], s.part.down_scales.shape[2] * 32
    ):
        if tail.again and not _may_be(wrong, tail):
            continue
        slots, known = _slots(experts, tail)
        if bool((known & bad).any()):
            left = rest_of_error(wrong, slots, known)
            fits += [] if left is None else [Fit(name, left)]
    return fits


def _may_be(wrong: Wrong, tail: _Tail) -> bool:
    """Whether it gives the token that is furthest off, of which it reads no other."""
    ratio = (wrong.found - wrong.right).abs() / wrong.allowed.clamp(min=_TINY)
    at = ratio.amax(dim=1).argmax()[None]
    slots, _ = _slots(wrong.experts.of_tokens(at), tail)
    left = wrong.found[at] - slots.sum(dim=1)
    return bool(left.norm() < (wrong.found[at] - wrong.right[at]).norm() / 2)


def _tails(h: int, i: int) -> Iterator[tuple[str, _Tail]]:
    seen = set()
    for gemm, k in (("GEMM1", h), ("GEMM2", i)):
        for unit in _UNITS:
            over = min(-k % unit, k)
            if not over or (gemm, over) in seen:
                continue
            seen.add((gemm, over))
            first, last = (over, 0) if gemm == "GEMM1" else (0, over)
            words = f"{gemm} reads {over} columns behind K, up to a multiple of {unit}"
            next_rows = f"{words}: those of the next rows"
            for around in (False, True):
                tail = _Tail(
                    first=first, last=last, of_expert=True, around=around, again=False
                )
                if first:
                    yield next_rows, replace(tail, of_expert=False)
                yield next_rows, tail
                if last:
                    again = f"{words}: the row's first ones with the next weight row's"
                    yield again, replace(tail, again=True)


def _slots(experts: Experts, tail: _Tail) -> tuple[Tensor, Tensor]:
    """(what slots add [t, k, h], tokens [t] of which all that is read is known)."""
    s = experts.situation
    ids, x = s.routing.ids - experts.first, s.hidden_states.double()
    found = x.new_zeros(*ids.shape, x.shape[1])
    known = torch.ones(len(x), dtype=torch.bool)
    for local in experts.visited():
        mine = ids == local
        tokens = mine.nonzero()[:, 0]
        behind = x[tokens].roll(-1, 0) if tail.of_expert else x.roll(-1, 0)[tokens]
        found[mine] = tail.rows(experts, local, x[tokens], behind)
        if not tail.again:
            known[tokens[-1] if tail.of_expert else len(x) - 1] = False
    return experts.weights[..., None] * found, known
