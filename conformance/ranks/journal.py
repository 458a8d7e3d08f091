"""What a rank is doing, one line of JSON as each thing begins.

A process that dies or hangs says nothing any more; its last line says in what.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

READY, DONE, FAILED, BROKEN = "ready", "done", "failed", "broken"
CALLS = ("load", "prepare", "forward")
"""Entries that are calls into the candidate; the others wait for the other ranks."""


@dataclass(frozen=True)
class Entry:
    """`what` began at `time`, in case number `case` (-1: before the first)."""

    what: str
    time: float
    case: int
    facts: dict[str, Any] = field(default_factory=dict)


def journal_path(folder: Path, rank: int) -> Path:
    """The journal of `rank`."""
    return folder / f"rank{rank}.jsonl"


@dataclass
class Journal:
    """Writes the journal of one rank; `case` is the number of the current case."""

    path: Path
    case: int = -1

    def begins(self, what: str, **facts: Any) -> None:
        """Append one entry, on the disk before this returns."""
        entry = {"what": what, "time": time.time(), "case": self.case, "facts": facts}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def read_journal(path: Path) -> tuple[Entry, ...]:
    """The whole lines so far; none if the rank has not begun."""
    if not path.exists():
        return ()
    lines = path.read_text(encoding="utf-8").split("\n")
    return tuple(Entry(**json.loads(line)) for line in lines[:-1])
