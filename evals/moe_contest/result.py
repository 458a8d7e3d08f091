"""What a contest found, as plain values: for ``run.json``, the table, the picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from typing import Any

from mxmoe.conformance.rundir import json_number
from mxmoe.evals.moe_contest.ceilings import Ceilings
from mxmoe.evals.moe_contest.contest import Cell
from mxmoe.evals.moe_contest.contest import Outcome
from mxmoe.evals.moe_contest.contestant import Contestant
from mxmoe.evals.moe_contest.phases import Phases
from mxmoe.evals.moe_contest.workload import Load

_OPPONENT = "triton_kernels"
_ON_A_GPU = (
    "replays of CUDA graphs, in turn, the L2 cache filled with other data before each"
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished contest; the first of the contestants is ours."""

    contestants: Sequence[Contestant]
    outcome: Outcome
    loads: Sequence[Load]
    ceilings: Ceilings
    phases: Phases
    device: str

    @property
    def candidate(self) -> str:
        """The name of the contestant that is ours."""
        return self.contestants[0].name

    @property
    def names(self) -> list[str]:
        """The contestants that took part."""
        return list(self.outcome.cells)

    def facts(self) -> dict[str, Any]:
        """What ``--json`` and ``run.json`` say."""
        contestants = {}
        for c in self.contestants:
            contestants[c.name] = {
                "arithmetic": c.arithmetic.name,
                "router": c.router,
                "version": c.version,
            }
            if c.name in self.outcome.unavailable:
                contestants[c.name]["unavailable"] = self.outcome.unavailable[c.name]
        return {
            "device": self.device,
            "timed": "plain calls" if self.device == "cpu" else _ON_A_GPU,
            "phase_seconds": self.phases.seconds,
            "ceilings": asdict(self.ceilings),
            "contestants": contestants,
            "rows": self.rows(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One for each token count; times in microseconds.

        ``ratio`` is the time of triton_kernels, the faster of its layouts at this
        count, in times of the candidate; absent where either has no time.
        """
        rows = []
        for number, load in enumerate(self.loads):
            floor = load.floor_seconds(self.ceilings)
            cells = {
                name: _figures(cells[number], load, floor)
                for name, cells in self.outcome.cells.items()
            }
            row = {**asdict(load), "floor_us": floor * 1e6, "contestants": cells}
            rows.append(row | self._ratio(cells))
        return rows

    def _ratio(self, cells: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        theirs = [
            figures["median_us"]
            for name, figures in cells.items()
            if name.startswith(_OPPONENT) and "median_us" in figures
        ]
        ours = cells.get(self.candidate, {}).get("median_us")
        return {"ratio": min(theirs) / ours} if theirs and ours else {}


def _figures(cell: Cell, load: Load, floor: float) -> dict[str, Any]:
    judged = {"worst": json_number(cell.worst)}
    if cell.refusal is not None:
        return {"refused": cell.refusal, **judged}
    median = statistics.median(cell.seconds)
    low, high = median, median
    if len(cell.seconds) > 1:
        low, _, high = statistics.quantiles(cell.seconds, n=4, method="inclusive")
    return {
        "median_us": median * 1e6,
        "quartile1_us": low * 1e6,
        "quartile3_us": high * 1e6,
        "floor_fraction": floor / median,
        "tflops": load.flops / median / 1e12,
        **judged,
    }
