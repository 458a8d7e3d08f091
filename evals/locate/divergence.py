"""The first place at which a stage leaves its bound."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.evals.locate.explained import SLACK
from mxmoe.reference.types import Routing


@dataclass(frozen=True, kw_only=True, eq=False)
class Divergence:
    """Where a stage goes wrong first: expert, then row, then column.

    stage : a name of `STAGES`. expert, slot : None for stages that have one row a
    token. row : index of the token. found, truth, allowed : the whole stage,
    [t, k, width] or [t, width]; bad : bool of that shape, True where it is out of
    bound. worst : the largest error / allowed.
    """

    stage: str
    expert: int | None
    row: int
    slot: int | None
    column: int
    worst: float
    found: torch.Tensor
    truth: torch.Tensor
    allowed: torch.Tensor
    bad: torch.Tensor
    routing: Routing

    @property
    def at(self) -> tuple[int, ...]:
        """The index of the first element."""
        if self.slot is None:
            return (self.row, self.column)
        return (self.row, self.slot, self.column)

    @property
    def nonfinite(self) -> bool:
        """Whether the first element is NaN or infinite."""
        return not bool(self.found[self.at].isfinite())

    @property
    def experts(self) -> tuple[int, ...]:
        """Every expert with a row out of bound."""
        if self.slot is None:
            return ()
        return tuple(self.routing.ids[self.bad.any(dim=-1)].unique().tolist())

    def at_expert(self, expert: int) -> Divergence:
        """The same, placed at the first row of `expert` that is as bad."""
        assert self.slot is not None
        bad = self.bad & ~self.found.isfinite() if self.nonfinite else self.bad
        rows = bad.any(dim=-1) & self.rows_of(expert)
        row, slot = rows.nonzero()[0].tolist()
        column = int(bad[row, slot].int().argmax())
        return replace(self, expert=expert, row=row, slot=slot, column=column)

    def rows_of(self, expert: int) -> torch.Tensor:
        """bool [t, k]: the rows of an expert."""
        return self.routing.ids == expert


def faint(found: Divergence) -> bool:
    """Whether it is so near its bound that nearly anything would explain it."""
    return bool(((found.found - found.truth).abs() <= SLACK * found.allowed).all())


def first_divergence(
    stage: str,
    found: torch.Tensor,
    truth: torch.Tensor,
    allowed: torch.Tensor,
    routing: Routing,
) -> Divergence | None:
    """None where every element that can be judged is within its bound.

    An element whose truth is not finite had an input that was not: another stage's.
    NaN and infinity come before numbers that are merely wrong.
    """
    got = found.detach().to("cpu", torch.float64).reshape(truth.shape)
    judged = truth.isfinite()
    difference = compare_numbers(
        torch.where(judged, got, 0.0),
        torch.where(judged, truth, 0.0),
        torch.where(judged, allowed, 1.0),
    )
    bad = difference.bad
    if not bad.any():
        return None
    first = bad & ~got.isfinite() if difference.nonfinite else bad
    expert, row, slot = _first_row(first, routing)
    of_row = first[row] if slot is None else first[row, slot]
    return Divergence(
        stage=stage,
        expert=expert,
        row=row,
        slot=slot,
        column=int(of_row.int().argmax()),
        worst=difference.worst,
        found=got,
        truth=truth,
        allowed=allowed,
        bad=bad,
        routing=routing,
    )


def _first_row(
    bad: torch.Tensor, routing: Routing
) -> tuple[int | None, int, int | None]:
    """(expert, token, slot): the lowest expert, then its first token."""
    rows = bad.any(dim=-1)
    if bad.dim() == 2:
        return None, int(rows.int().argmax()), None
    expert = int(routing.ids[rows].min())
    token, slot = (rows & (routing.ids == expert)).nonzero()[0].tolist()
    return expert, token, slot
