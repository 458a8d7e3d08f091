"""Groups of elements whose errors are too large; derived in `structure`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mxmoe.conformance.residual.structure import CHANCE
from mxmoe.conformance.residual.structure import SMALLEST_GROUP
from mxmoe.conformance.residual.structure import Expected
from mxmoe.conformance.residual.structure import Situation

_EXPONENT = math.log(1 / CHANCE)

# Trailing columns of tiles of these widths.
_TAILS = (32, 64, 128)

# Roots of larger matrices take seconds: groups of more columns are split.
_WIDEST = 512

# So many tokens are looked at with their columns decorrelated, the widest ones, and
# so many of the groups that are suspicious as they are.
_TOKENS = 3
_SUSPECTS = 8


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A group of elements whose errors are larger than independent roundings give.

    rms : of error / expected size over `count` elements; at most `allowed`.
    """

    where: str
    count: int
    rms: float
    allowed: float

    @property
    def excess(self) -> float:
        """How unlikely it is: by how many root counts the sum of squares is beyond."""
        return (self.rms**2 - 1) * math.sqrt(self.count)


def wide_spreads(
    residual: torch.Tensor, situation: Situation, expected: Expected
) -> list[Spread]:
    """Groups whose errors are too large for independent roundings, clearest first."""
    live = expected.own.sigma > 0
    size = torch.where(live, expected.variance, 1)
    errors = torch.where(live, residual / size.sqrt(), 0)
    systematic = torch.where(live, expected.eta**2 / expected.own.sigma**2, 0)
    decorrelated = _Decorrelated(errors, situation, expected)
    found = _wide_columns(errors, situation, expected)
    tokens, suspects = [], []
    for group in _groups(situation):
        count = int(group.of(live).sum())
        if count < SMALLEST_GROUP:
            continue
        total = float(group.of(errors).square().sum())
        excess = (total - count) / math.sqrt(count)
        allowed = _most(count, math.sqrt(float(group.of(systematic).sum())))
        entry = (excess, group, count, allowed)
        if total > allowed:
            suspects.append(entry)
        elif len(group.rows) == 1:
            tokens.append(entry)
    widest = sorted(tokens, key=lambda t: -t[0])[:_TOKENS]
    for _, group, count, allowed in (
        *sorted(suspects, key=lambda s: -s[0])[:_SUSPECTS],
        *widest,
    ):
        total = decorrelated.total(group)
        if total > allowed:
            found.append(_spread(group.name, count, total, allowed))
    return sorted(found, key=lambda s: -s.excess)


def _wide_columns(
    errors: torch.Tensor, situation: Situation, expected: Expected
) -> list[Spread]:
    """Single columns: their tokens are independent as they are."""
    live = expected.own.sigma > 0
    size = torch.where(live, expected.variance, 1)
    counts = live.sum(dim=0).tolist()
    totals = errors.square().sum(dim=0).tolist()
    slacks = torch.where(live, expected.eta**2 / size, 0).sum(dim=0).sqrt().tolist()
    found = []
    for column, (count, total, slack) in enumerate(
        zip(counts, totals, slacks, strict=True)
    ):
        allowed = _most(count, slack)
        if count >= SMALLEST_GROUP and total > allowed:
            found.append(_spread(f"column {column}", count, total, allowed))
    return found


def _spread(where: str, count: int, total: float, allowed: float) -> Spread:
    rms, most = math.sqrt(total / count), math.sqrt(allowed / count)
    return Spread(where=where, count=count, rms=rms, allowed=most)


def _most(count: int, slack: float) -> float:
    """The largest sum of squares of `count` honest errors, normalised."""
    random = count + 2 * math.sqrt(count * _EXPONENT) + 2 * _EXPONENT
    return (math.sqrt(random) + slack) ** 2


@dataclass(frozen=True, eq=False)
class _Group:
    """Tokens and columns that are looked at together."""

    name: str
    rows: torch.Tensor
    columns: slice

    def of(self, values: torch.Tensor) -> torch.Tensor:
        return values[self.rows][:, self.columns]


def _groups(situation: Situation) -> Iterator[_Group]:
    t, h = situation.truth["combine"].shape
    every = torch.arange(t)
    ids = situation.routing.ids
    owned = situation.shard.expert_range(situation.config)
    for first in range(0, h, _WIDEST):
        columns = slice(first, min(h, first + _WIDEST))
        part = "" if h <= _WIDEST else f", columns {first}..{columns.stop - 1}"
        for e in sorted(set(ids.unique().tolist()) & set(owned)):
            rows = (ids == e).any(dim=1).nonzero()[:, 0]
            name = f"the {len(rows)} tokens that visit expert {e}{part}"
            yield _Group(name, rows, columns)
        for token in range(t):
            yield _Group(f"token {token}{part}", every[token : token + 1], columns)
        yield _Group(f"every token{part or ' and column'}", every, columns)
    for tail in _TAILS:
        first = (h - 1) // tail * tail
        if first and h - first > 1:
            name = f"trailing columns {first}..{h - 1}"
            yield _Group(name, every, slice(first, h))


class _Decorrelated:
    """Sums of squares e M**-1 e, where the columns of a token have covariance M."""

    def __init__(
        self, errors: torch.Tensor, situation: Situation, expected: Expected
    ) -> None:
        self._errors, self._situation, self._expected = errors, situation, expected
        self._known: dict[tuple[int, int], float] = {}

    def total(self, group: _Group) -> float:
        """Over the tokens of a group, which are independent of each other."""
        return sum(self._of_token(n, group.columns) for n in group.rows.tolist())

    def _of_token(self, token: int, columns: slice) -> float:
        at = (token, columns.start)
        if at not in self._known:
            errors = self._errors[token, columns, None]
            root = torch.linalg.cholesky(self._covariance(token, columns))
            white = torch.linalg.solve_triangular(root, errors, upper=False)
            self._known[at] = float(white.square().sum())
        return self._known[at]

    def _covariance(self, token: int, columns: slice) -> torch.Tensor:
        alone = self._situation.of_token(token)
        variance = self._expected.variance[token, columns]
        inverse = torch.where(variance > 0, variance.rsqrt(), 0)
        matrix = torch.zeros(len(variance), len(variance), dtype=torch.float64)
        for e in alone.experts():
            _, p = alone.weights_of(e)
            lanes = p * e.activation_error.sigma
            factor = e.w2[columns] * lanes * inverse[:, None]
            matrix += factor @ factor.T
        own = self._expected.own.sigma[token, columns].square() * inverse**2
        return matrix + torch.diag(torch.where(variance > 0, own, 1))
