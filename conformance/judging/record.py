"""What one check found out, filled in as it goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field

import torch

from mxmoe.conformance.cases.kept_inputs import Source
from mxmoe.conformance.judging.experts_reached import Reached
from mxmoe.conformance.judging.experts_reached import united


@dataclass
class Record:
    """What one check found out, filled in as it goes.

    searching : the smallest failing case is still looked for: say what, not why.
    telling : a failing candidate may be called on another case to explain why.
    source : where the first inputs of the current case came from. measured : the
    largest error / allowed by stage and configuration (the case's first two words).
    reached : the experts of the cases whose output was right.
    """

    worst: float | None = None
    measured: dict[tuple[str, str], float] = field(default_factory=dict)
    reached: tuple[Reached, ...] = ()
    examples: int = 0
    searching: bool = False
    telling: bool = True
    case: str | None = None
    source: Source | None = None
    evidence: tuple[dict[str, object], dict[str, torch.Tensor]] | None = None
    notes: list[str] = field(default_factory=list)

    def measure(self, stage: str, configuration: str, worst: float) -> None:
        """Keep the larger of `worst` and what is known of this stage there."""
        key = stage, configuration
        self.measured[key] = max(worst, self.measured.get(key, 0.0))

    def reach(self, parts: Iterable[Reached]) -> None:
        """Add the experts that a judged case, or a child's cases, visited."""
        self.reached = united((*self.reached, *parts))
