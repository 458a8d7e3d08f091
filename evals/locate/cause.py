"""One explanation of a divergence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cause:
    """text : for a person. The rest says where it lies, if elsewhere than it was seen:
    stage, column, slot, expert."""

    text: str
    stage: str | None = None
    column: int | None = None
    slot: int | None = None
    expert: int | None = None
