"""What one check found out, filled in as it goes."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field

import torch

from mxmoe.conformance.kept_inputs import Source


@dataclass
class Record:
    """What one check found out, filled in as it goes.

    searching : the smallest failing case is still looked for: say what, not why.
    source : where the first inputs of the current case came from.
    """

    worst: float | None = None
    examples: int = 0
    searching: bool = False
    case: str | None = None
    source: Source | None = None
    evidence: tuple[dict[str, object], dict[str, torch.Tensor]] | None = None
    notes: list[str] = field(default_factory=list)
