"""Groups of elements whose errors are too large; derived in `residual_structure`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mxmoe.conformance.residual_structure import CHANCE
from mxmoe.conformance.residual_structure import SMALLEST_GROUP
from mxmoe.conformance.residual_structure import Expected
from mxmoe.conformance.residual_structure import Situation

_EXPONENT = math.log(1 / CHANCE)

# Trailing columns of tiles of these widths.
_TAILS = (32, 64, 128)

# The eigenvalues of a larger matrix take seconds.
_LARGEST_NORM = 1024


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A group of elements whose errors are larger than independent roundings give.

    rms : of error / expected size over `count` elements; at most `allowed`.
    """

    where: str
    count: int
    rms: float
    allowed: float


def wide_spreads(
    residual: torch.Tensor, situation: Situation, expected: Expected
) -> list[Spread]:
    """Every group whose errors are too large for independent roundings, worst first."""
    live = expected.variance > 0
    size = torch.where(live, expected.variance, 1)
    square = torch.where(live, residual**2 / size, 0)
    systematic = torch.where(live, expected.eta**2 / size, 0)
    covariance = _Covariance(situation, expected)
    found = []
    for where, rows, columns in _groups(situation):
        count = int(live[rows][:, columns].sum())
        if count < SMALLEST_GROUP:
            continue
        total = float(square[rows][:, columns].sum())
        slack = math.sqrt(float(systematic[rows][:, columns].sum()))
        allowed = _most(count, float(count), 1.0, slack)
        if total > allowed and columns.stop - columns.start > 1:
            allowed = _most(count, *covariance.of_group(rows, columns), slack)
        if total > allowed:
            found.append(
                Spread(
                    where=where,
                    count=count,
                    rms=math.sqrt(total / count),
                    allowed=math.sqrt(allowed / count),
                )
            )
    return sorted(found, key=lambda s: s.allowed / s.rms)


def _most(count: int, square_trace: float, norm: float, slack: float) -> float:
    """The largest sum of squares of `count` honest normalised errors."""
    random = count + 2 * math.sqrt(square_trace * _EXPONENT) + 2 * norm * _EXPONENT
    return (math.sqrt(random) + slack) ** 2


def _groups(situation: Situation) -> Iterator[tuple[str, torch.Tensor, slice]]:
    """(name, tokens, columns) of everything that is looked at by itself."""
    t, h = situation.truth["combine"].shape
    every, all_columns = torch.arange(t), slice(0, h)
    ids = situation.routing.ids
    owned = situation.shard.expert_range(situation.config)
    for e in sorted(set(ids.unique().tolist()) & set(owned)):
        tokens = (ids == e).any(dim=1).nonzero()[:, 0]
        yield f"the {len(tokens)} tokens that visit expert {e}", tokens, all_columns
    for tail in _TAILS:
        first = (h - 1) // tail * tail
        if first:
            yield f"trailing columns {first}..{h - 1}", every, slice(first, h)
    for token in range(t):
        yield f"token {token}", every[token : token + 1], all_columns
    for column in range(h):
        yield f"column {column}", every, slice(column, column + 1)
    yield "every token and column", every, all_columns


class _Covariance:
    """M of the normalised errors of some columns of a token, by its experts' W2."""

    def __init__(self, situation: Situation, expected: Expected) -> None:
        self._situation, self._expected = situation, expected
        self._known: dict[tuple[int, int], tuple[float, float]] = {}

    def of_group(self, rows: torch.Tensor, columns: slice) -> tuple[float, float]:
        """(tr(M**2), |M|): tokens are independent of each other."""
        found = [self._of_token(token, columns) for token in rows.tolist()]
        return sum(trace for trace, _ in found), max(norm for _, norm in found)

    def _of_token(self, token: int, columns: slice) -> tuple[float, float]:
        at = (token, columns.start)
        if at not in self._known:
            self._known[at] = _sizes(self._matrix(token, columns))
        return self._known[at]

    def _matrix(self, token: int, columns: slice) -> torch.Tensor:
        alone = self._situation.of_token(token)
        size = self._expected.variance[token, columns].sqrt()
        inverse = torch.where(size > 0, 1 / size, 0)
        matrix = torch.zeros(len(size), len(size), dtype=torch.float64)
        for e in alone.experts():
            _, p = alone.weights_of(e)
            factor = e.w2[columns] * e.activation_error.sigma * p * inverse[:, None]
            matrix += factor @ factor.T
        matrix.fill_diagonal_(0)
        return matrix + torch.diag((size > 0).double())


def _sizes(matrix: torch.Tensor) -> tuple[float, float]:
    """(tr(M**2), |M|), the latter by its bound tr(M**4)**(1/4) if M is large."""
    square_trace = float(matrix.square().sum())
    if len(matrix) <= _LARGEST_NORM:
        return square_trace, float(torch.linalg.eigvalsh(matrix)[-1])
    return square_trace, math.sqrt(float((matrix @ matrix).square().sum().sqrt()))
