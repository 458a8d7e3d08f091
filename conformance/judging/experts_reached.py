"""Which experts the judged cases visited: a PASS says nothing about the others."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Reached:
    """The experts to which judged tokens were sent, where the output was right.

    where : ``layer3`` of a checkpoint, or ``e32``: all drawn shapes with 32 experts.
    experts : how many there are. ids : ascending.
    """

    where: str
    experts: int
    ids: tuple[int, ...]

    @property
    def drawn(self) -> bool:
        """Whether the shapes were drawn, and not those of a checkpoint."""
        return self.where.startswith("e")

    @property
    def missing(self) -> tuple[int, ...]:
        """The experts that no judged token was sent to."""
        return tuple(sorted(set(range(self.experts)) - set(self.ids)))

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Reached:
        """From the members as JSON has them."""
        return cls(**{**found, "ids": tuple(found["ids"])})


def united(parts: Iterable[Reached]) -> tuple[Reached, ...]:
    """One entry for each `where`, with the experts of all its `parts`."""
    ids: dict[tuple[str, int], set[int]] = {}
    for part in parts:
        ids.setdefault((part.where, part.experts), set()).update(part.ids)
    return tuple(
        Reached(where=where, experts=experts, ids=tuple(sorted(found)))
        for (where, experts), found in sorted(ids.items(), key=_in_order)
    )


def _in_order(entry: tuple[tuple[str, int], set[int]]) -> tuple[str, int, str]:
    (where, experts), _ = entry
    return where[:1], experts, where


def all_reached(parts: Iterable[Reached]) -> str:
    """What is said of all of them together; nothing where no output was judged."""
    every = united(parts)
    if not every:
        return ""
    whole = [part.where for part in every if not part.missing]
    said = [f"all in {', '.join(whole)}"] if whole else []
    return "; ".join(said + [_gap(part) for part in every if part.missing])


def _gap(part: Reached) -> str:
    missing = part.missing
    listed = ", ".join(map(str, missing[:4])) + (", ..." if len(missing) > 4 else "")
    return f"{len(part.ids)} of {part.experts} in {part.where}, not {listed}"
