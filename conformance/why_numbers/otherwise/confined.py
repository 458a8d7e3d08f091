"""A hypothesis that holds in some lanes of the intermediate only, or in some K blocks.

A lane is a gate and an up row of the first GEMM and a column of K of the second, so
what is wrong with either, or between them, may be confined to lanes. What is wrong with
the operands of the first GEMM may be confined to blocks of its K.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.expert_content import Content
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.layer_steps import in_blocks
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.otherwise.scopes import COLUMNS
from mxmoe.conformance.why_numbers.otherwise.scopes import number_sets
from mxmoe.conformance.why_numbers.otherwise.scopes import number_words
from mxmoe.reference.types import BLOCK

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Confined:
    """`otherwise` where `mask` is 1: lanes [i], or K blocks [g] of the first GEMM."""

    words: str
    otherwise: Otherwise
    mask: Tensor
    of_input: bool

    def slots(self, experts: Experts) -> Tensor:
        """What each slot adds to each token: [t, k, h], 0 where none is."""
        found = torch.zeros_like(experts.weights)[..., None].repeat(
            1, 1, experts.situation.hidden_states.shape[1]
        )
        rows_of = self._of_blocks if self.of_input else self._of_lanes
        for local in experts.visited():
            mine, rows = experts.visit(local)
            y = rows_of(experts, local, rows) + experts.content(local).down.bias
            y = through(y, dtype=experts.arithmetic.slot)
            found[mine] = experts.weights[mine][:, None] * y
        return found

    def _of_lanes(self, experts: Experts, local: int, x: Tensor) -> Tensor:
        right, other = experts.content(local), self.otherwise.edit(experts, local)
        steps = self.otherwise.steps
        a = experts.intermediate(right, RIGHT.steps, x) * (1 - self.mask)
        b = experts.intermediate(other, steps, steps.x(x)) * self.mask
        return a @ right.down.dense.T + b @ other.down.dense.T

    def _of_blocks(self, experts: Experts, local: int, x: Tensor) -> Tensor:
        right, other = experts.content(local), self.otherwise.edit(experts, local)
        inside = self.mask.repeat_interleave(BLOCK)
        z = (x * (1 - inside)) @ right.gate_up.dense.T
        z = z + (self.otherwise.steps.x(x) * inside) @ other.gate_up.dense.T
        return experts.activated(z, right) @ right.down.dense.T


def lane_sets(count: int) -> tuple[list[str], Tensor]:
    """(words, masks [m, i]) of lanes."""
    found = dict(number_sets("lane", count, units=COLUMNS))
    found |= _windows("lane", count, (BLOCK, 2 * BLOCK))
    return [f"in {words}" for words in found], _stacked(found, count)


def block_sets(count: int) -> tuple[list[str], Tensor]:
    """(words, masks [m, g]) of K blocks."""
    found = dict(number_sets("K block", count)) | _windows("K block", count, (1,))
    return [f"in {words} of GEMM1" for words in found], _stacked(found, count)


def _windows(what: str, count: int, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    at = torch.arange(count)
    masks = (at // size == n for size in sizes for n in range(-(-count // size)))
    return {number_words(what, mask): mask for mask in masks if not mask.all()}


def _stacked(found: dict[str, Tensor], count: int) -> Tensor:
    return torch.stack([*found.values(), torch.ones(count, dtype=torch.bool)])[
        :-1
    ].double()


class ConfinedToken:
    """One token under hypotheses that are confined to lanes or K blocks.

    at : bool [h], the columns of the output that are looked at.
    """

    def __init__(self, experts: Experts, token: int, at: Tensor) -> None:
        self._experts, self._at = experts, at
        self._x = experts.token(token)
        ids = experts.situation.routing.ids[token] - experts.first
        served = experts.served[token].nonzero()[:, 0].tolist()
        self._slots = [(k, int(ids[k])) for k in served]
        self._weights, self._count = experts.weights[token], len(ids)
        lanes = experts.situation.part.down_scales.shape[2] * BLOCK
        self._lanes = lane_sets(lanes)
        self._blocks = block_sets(self._x.shape[1] // BLOCK)

    def changes(self, otherwise: Otherwise) -> Iterator[tuple[list[Confined], Tensor]]:
        """(hypotheses, what each changes of the slots: [k, columns, m])."""
        if not otherwise.ends_right or not self._slots:
            return
        contents = {e: otherwise.edit(self._experts, e) for _, e in self._slots}
        rights = {e: self._experts.content(e) for e in contents}
        if any(
            not torch.equal(contents[e].down.bias, rights[e].down.bias) for e in rights
        ):
            return
        for of_input, (words, masks), changed in (
            (False, self._lanes, self._of_lanes),
            (True, self._blocks, self._of_blocks),
        ):
            if not words or (of_input and not otherwise.edits_input(contents, rights)):
                continue
            found = self._x.new_zeros(self._count, int(self._at.sum()), len(words))
            for k, e in self._slots:
                change = changed(otherwise, contents[e], rights[e], masks)
                found[k] = self._weights[k] * change
            make = partial(Confined, otherwise=otherwise, of_input=of_input)
            some = zip(words, masks, strict=True)
            yield [make(words=name, mask=mask) for name, mask in some], found

    def _of_lanes(
        self, otherwise: Otherwise, other: Content, right: Content, masks: Tensor
    ) -> Tensor:
        """[columns, m]"""
        own, steps = self._experts, otherwise.steps
        a = own.intermediate(right, RIGHT.steps, self._x)
        b = own.intermediate(other, steps, steps.x(self._x))
        if other.down is right.down:
            return (right.down.dense[self._at] * (b - a)) @ masks.T
        terms = other.down.dense[self._at] * b - right.down.dense[self._at] * a
        return terms @ masks.T

    def _of_blocks(
        self, otherwise: Otherwise, other: Content, right: Content, masks: Tensor
    ) -> Tensor:
        own = self._experts
        x, w = otherwise.steps.x(self._x), (other.gate_up, right.gate_up)
        by_block = [
            in_blocks(states, m.elements) * m.scales.T[..., None]
            for states, m in ((x, w[0]), (self._x, w[1]))
        ]
        z = by_block[1].sum(dim=0).T + masks @ (by_block[0] - by_block[1])[..., 0]
        a = own.intermediate(right, RIGHT.steps, self._x)
        change = own.activated(z, right) - a
        return right.down.dense[self._at] @ change.T
