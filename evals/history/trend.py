"""The full runs of one configuration in order of time, and where the score fell."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from mxmoe.evals.gate.cusum import LEAST_BASELINE
from mxmoe.evals.gate.cusum import cusum
from mxmoe.evals.gate.cusum import find_drop
from mxmoe.evals.history.scan import Row


@dataclass(frozen=True, kw_only=True)
class Trend:
    """rows : all runs of the configuration. scored : those that asked everything; the
    first `baseline` of them are what later ones are compared with. sums : the CUSUM
    after each later one, in run deviations. began, seen : the runs with which a drop
    began and was seen, or None.
    """

    rows: tuple[Row, ...]
    scored: tuple[Row, ...]
    baseline: int
    sums: tuple[float, ...]
    began: Row | None = None
    seen: Row | None = None

    @property
    def missing(self) -> int:
        """Full runs to go until a drop can be found."""
        return max(0, self.baseline + 1 - len(self.scored))


def trends(rows: Sequence[Row], *, baseline: int = LEAST_BASELINE) -> Iterator[Trend]:
    """One for each configuration that has a run, by its name."""
    ordered = sorted(rows, key=lambda row: (row.configuration, row.started, row.folder))
    for _, group in groupby(ordered, key=lambda row: row.configuration):
        yield _trend(tuple(group), baseline)


def _trend(rows: tuple[Row, ...], baseline: int) -> Trend:
    scored = tuple(row for row in rows if row.answered == row.asked)
    before, nights = scored[:baseline], scored[baseline:]
    if not nights:
        return Trend(rows=rows, scored=scored, baseline=baseline, sums=())
    known, counts = [r.correct for r in before], [r.correct for r in nights]
    drop = find_drop(counts, baseline=known)
    return Trend(
        rows=rows,
        scored=scored,
        baseline=baseline,
        sums=tuple(cusum(counts, baseline=known)),
        began=None if drop is None else nights[drop.began],
        seen=None if drop is None else nights[drop.seen],
    )
