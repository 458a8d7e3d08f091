"""Delta debugging: a smallest set that still has a property, in few evaluations.

After Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input" (IEEE
Transactions on Software Engineering 28, 2002): the set is cut into n parts; a part, or
all but a part, that still has the property takes its place; else n is doubled. What is
left is 1-minimal: it has the property, and loses it without any single element.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def minimise(items: Iterable[T], holds: Callable[[Iterable[T]], bool]) -> list[T]:
    """A 1-minimal part of `items` for which `holds`, in their order.

    `holds` is true of all of `items`; of no items it is never asked.
    """
    left, parts = list(items), 2
    while len(left) >= 2:
        pieces = _cut(left, parts)
        smaller = next((piece for piece in pieces if holds(piece)), None)
        if smaller is not None:
            left, parts = smaller, 2
            continue
        # With two parts, all but one is the other.
        rests = [] if parts == 2 else [_without(left, piece) for piece in pieces]
        smaller = next((rest for rest in rests if holds(rest)), None)
        if smaller is not None:
            left, parts = smaller, max(parts - 1, 2)
        elif parts < len(left):
            parts = min(2 * parts, len(left))
        else:
            break
    return left


def _cut(items: list[T], parts: int) -> list[list[T]]:
    """`parts` pieces, none empty, of nearly equal length."""
    n = len(items)
    bounds = [n * k // parts for k in range(parts + 1)]
    return [items[a:b] for a, b in itertools.pairwise(bounds)]


def _without(items: list[T], piece: list[T]) -> list[T]:
    dropped = set(piece)
    return [item for item in items if item not in dropped]
