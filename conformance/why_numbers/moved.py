"""Rows, columns, slots or tokens that hold what belongs to others, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

# Rows and columns whose place is looked for; more would take seconds.
_LOOKED_FOR = 256
_PLACES = 3
_PLACE = re.compile(r"(.*), ((?:in|for|at) .*) only")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def found_at(
    found: torch.Tensor, truth: torch.Tensor, allowed: torch.Tensor, bad: torch.Tensor
) -> dict[int, int]:
    """Bad row -> the row whose truth it holds, or {} if one has none.

    found, truth, allowed, bad : [rows, columns].
    """
    places = {}
    for row in bad.any(dim=1).nonzero()[:_LOOKED_FOR, 0].tolist():
        like = ((found[row] - truth).abs() <= allowed).all(dim=1).nonzero()[:, 0]
        if not len(like):
            return {}
        places[row] = int(like[0])
    return places


def by_one_step(likes: dict[int, list[int]], count: int) -> dict[int, int]:
    """Row -> one of the rows that it is like: by the same step for all, if there is.

    likes : row -> rows of `count`, at least one.
    """
    steps = ({(place - at) % count for place in places} for at, places in likes.items())
    same = set[int].intersection(*steps) if likes else set[int]()
    if len(same) == 1:
        (by,) = same
        return {at: (at + by) % count for at in likes}
    return {at: places[0] for at, places in likes.items()}


def order_of(places: dict[int, int], count: int, bad: int) -> torch.Tensor:
    """Where each row comes from; by the same step, if not all bad ones were asked."""
    order = torch.arange(count)
    steps = {(place - at) % count for at, place in places.items()}
    if len(places) < bad and len(steps) == 1:
        return (order + steps.pop()) % count
    order[list(places)] = torch.tensor(list(places.values()))
    return order


def moved(
    what: str, places: dict[int, int], count: int, thing: str = "the output"
) -> Iterator[str]:
    """``each token holds the output of token n - 1``: where rows come from.

    places : row -> the row whose `thing` it has. count : of all rows.
    """
    steps = {place - at for at, place in places.items()}
    around = {step % count for step in steps}
    if len(around) == 1 and len(places) > 2:
        (by,) = steps if len(steps) == 1 else around
        by = by if abs(by) <= count // 2 or len(steps) == 1 else by - count
        which = f"each {what} holds"
        if len(places) < min(count - 1, _LOOKED_FOR):
            mask = torch.zeros(count, dtype=torch.bool)
            mask[list(places)] = True
            which = f"{ranges(what, mask)} hold"
        sign = "+" if by > 0 else "-"
        yield f"{which} {thing} of {what} n {sign} {abs(by)}"
        return
    if len(places) > 1 and len(set(places.values())) == 1:
        mask = torch.zeros(count, dtype=torch.bool)
        mask[list(places)] = True
        (source,) = set(places.values())
        yield f"{ranges(what, mask)} hold {thing} of {what} {source}"
        return
    if thing != "the output":
        some = [f"{what} {at} has {thing} of {what} {n}" for at, n in places.items()]
        more = f" and {len(some) - 3} more" if len(some) > 3 else ""
        yield ", ".join(some[:3]) + more
        return
    first = [f"{what} {at} holds that of {what} {n}" for at, n in places.items()][:3]
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    yield f"{what}s in another order: {', '.join(first)}{more}"


def ranges(what: str, mask: torch.Tensor) -> str:
    """``tokens 3..5, 9``: where a mask [n] is true."""
    found = mask.nonzero()[:, 0].tolist()
    runs: list[list[int]] = []
    for n in found:
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    words = [f"{a}" if a == b else f"{a}..{b}" for a, b in runs[:4]]
    more = ", ..." if len(runs) > 4 else ""
    return f"{what}{'s' * (len(found) > 1)} {', '.join(words)}{more}"


def alternatives(names: list[str], most: int = 6) -> str:
    """``a; or b; or 3 more``: more than `most` say that nobody can tell."""
    more = f"; or {len(names) - most} more" if len(names) > most else ""
    return f"{'; or '.join(names[:most])}{more}"


def merged(names: list[str]) -> list[str]:
    """Sentences that differ in one number are one, ``tiles of 32, 64 or 128 rows``."""
    found: list[list[str]] = []
    for name in names:
        alike = next((some for some in found if _differs_once([*some, name])), None)
        if alike is None:
            found.append([name])
        else:
            alike.append(name)
    said = [some[0] if len(some) == 1 else _one_of(some) for some in found]
    return list(_by_place(said))


def _by_place(names: list[str]) -> Iterator[str]:
    """The same in several places: ``..., in expert 3, or for token 5, only``."""
    places: dict[str, list[str]] = {}
    for name in names:
        told = _PLACE.fullmatch(name)
        what, where = told.groups() if told else (name, "")
        places.setdefault(what, []).append(where)
    for what, some in places.items():
        if len(some) > 1 and "" not in some:
            more = f", or {len(some) - _PLACES} more" if len(some) > _PLACES else ""
            yield f"{what}, {', or '.join(some[:_PLACES])}{more}, only"
        else:
            yield from (f"{what}, {where} only" if where else what for where in some)


def _differs_once(names: list[str]) -> bool:
    if len({_NUMBER.sub("#", name) for name in names}) > 1:
        return False
    return len(_differing(names)) == 1


def _differing(names: list[str]) -> list[int]:
    """Which of the numbers in sentences of the same words are not all the same."""
    columns = zip(*(_NUMBER.findall(name) for name in names), strict=True)
    return [n for n, column in enumerate(columns) if len(set(column)) > 1]


def _one_of(names: list[str]) -> str:
    (at,) = _differing(names)
    numbers = [_NUMBER.findall(name)[at] for name in names]
    place = list(_NUMBER.finditer(names[0]))[at]
    words = f"{', '.join(numbers[:-1])} or {numbers[-1]}"
    return names[0][: place.start()] + words + names[0][place.end() :]
