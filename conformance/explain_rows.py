"""Rows or columns in an order that no known step gives: read off the bytes.

The steps that make tiles are undone first, so that rows are rows again. Then each row
is looked up among the rows expected, and the order that this gives is put into words.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mxmoe.conformance.chain_places import expert_words
from mxmoe.conformance.compare_bytes import as_bytes
from mxmoe.conformance.suspect import Suspect
from mxmoe.reference.layouts.steps import row_shuffle

# Above it the rows of one expert take longer than a second to look up.
_LARGEST_BYTES = 2**25
_LISTED = 3

Rule = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _View:
    """Lines of one expert: `undone` steps taken back, single bytes or whole runs."""

    undone: int
    single: bool
    axis: int

    def order(self, suspect: Suspect, expert: int) -> list[int] | None:
        """Which expected line each found one is; None if one is none of them."""
        pair = _undone(suspect, expert, self.undone)
        if pair is None or (self.single and pair[0].shape[2] == 1):
            return None
        if self.single:
            pair = pair[0].flatten(1).unsqueeze(2), pair[1].flatten(1).unsqueeze(2)
        found, expected = (x.transpose(0, self.axis) for x in pair)
        return _order(found, expected)


def explain_rows(suspect: Suspect) -> list[str]:
    """What order the rows, else the columns, of the differing experts have."""
    if suspect.prepared.found[0].nbytes > _LARGEST_BYTES:
        return []
    wrong = suspect.differs.any(dim=1).nonzero().flatten().tolist()
    for undone in range(len(suspect.chain.steps) + 1):
        for axis, single in ((0, False), (1, False), (1, True)):
            view = _View(undone, single, axis)
            order = view.order(suspect, wrong[0])
            tiled = not undone and suspect.index_map.index.ndim > 2
            names = ("tiles", "bytes of each tile") if tiled else ("rows", "columns")
            what = "byte columns" if single else names[axis]
            words = None if order is None else describe_order(order, what)
            if words is None or order is None:
                continue
            if all(_agree(order, view.order(suspect, e)) for e in wrong[1:]):
                return [f"{words}{_at(suspect, undone)}{_in(suspect, wrong)}"]
    return []


def _agree(order: list[int], other: list[int] | None) -> bool:
    if other is None or len(other) != len(order):
        return False
    return all(a == b for a, b in zip(order, other, strict=True) if min(a, b) >= 0)


def describe_order(order: Sequence[int], what: str) -> str | None:
    """``rows reversed in each 32``, of a line where place n holds order[n]; -1: any."""
    held = torch.tensor(order)
    n = torch.arange(len(held))
    moved = (held >= 0) & (held != n)
    if not bool(moved.any()):
        return None
    at = [int(n) for n in moved.nonzero()]
    one = what.removesuffix("s")
    said = ", ".join(f"{one} {i} holds {one} {order[i]}" for i in at[:_LISTED])
    if len(at) <= _LISTED:
        return said
    part = None
    for words, rule in _rules(len(held), held, moved):
        by_rule = rule(n)
        if not torch.equal(by_rule[moved], held[moved]):
            continue
        due = (by_rule != n) & (held >= 0)
        if torch.equal(due, moved):
            return f"{what} {words}"
        start, stop = (int(x) for x in moved.nonzero().flatten()[[0, -1]])
        if part is None and torch.equal(due & (n >= start) & (n <= stop), moved):
            part = f"{what} {words}, in {what} {start} to {stop} only"
            if words.startswith("shifted by") and " in " not in words:
                first, last = order[start], order[stop]
                part = f"{what} {start} to {stop} hold {what} {first} to {last}"
    if part is not None:
        return part
    return f"right {what} in an order that no known step gives: {said}, ..."


def _rules(
    count: int, held: torch.Tensor, moved: torch.Tensor
) -> Iterator[tuple[str, Rule]]:
    first = int(moved.nonzero()[0])
    by = (int(held[first]) - first + count // 2) % count - count // 2
    yield f"shifted by {-by}", lambda n: (n + by) % count
    yield f"shifted by {-by}, not cyclically", lambda n: (n + by).clamp(0, count - 1)
    for block in (16, 32):
        shuffle = row_shuffle(block)
        if count % block == 0:
            order, back = shuffle.apply(torch.arange(count)), shuffle.undo
            yield f"in the order of {shuffle}", lambda n, o=order: o[n]  # type: ignore[misc]
            order = back(torch.arange(count))
            yield f"in the inverse order of {shuffle}", lambda n, o=order: o[n]  # type: ignore[misc]
    sizes = [b for b in range(2, count + 1) if count % b == 0]
    for b in sizes:
        inside = "" if b == count else f" in each {b}"
        name = "exchanged in pairs" if b == 2 else f"reversed{inside}"
        yield name, lambda n, b=b: n - n % b + b - 1 - n % b  # type: ignore[misc]
        groups = "" if b == count else f" of each {b}"
        yield f"all hold the first{groups}", lambda n, b=b: n - n % b  # type: ignore[misc]
        turn = (int(held[first]) - first) % b
        yield (
            f"shifted by {b - turn}{inside}",
            lambda n, b=b, t=turn: n - n % b + (n + t) % b,  # type: ignore[misc]
        )
        yield (
            f"in groups of {b}, groups reversed",
            lambda n, b=b: (count // b - 1 - n // b) * b + n % b,  # type: ignore[misc]
        )
        for a in range(2, b):
            if b % a == 0:
                yield (
                    f"transposed as {a} x {b // a}{inside}",
                    lambda n, a=a, b=b: n - n % b + n % b % a * (b // a) + n % b // a,  # type: ignore[misc]
                )


def _undone(
    suspect: Suspect, expert: int, undone: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Found and expected [rows, columns, bytes] before the last `undone` steps."""
    prepared, index_map = suspect.prepared, suspect.index_map
    found = index_map.plain(prepared.found[expert].cpu())
    source = suspect.source[expert].view(
        prepared.weights.tensors()[index_map.source].dtype
    )
    wanted = index_map.plain(index_map.gather_expert(source))
    # Runs of bytes are what a step moves; they stay together on a last axis.
    width = index_map.width * found.element_size()
    pair = [as_bytes(x).reshape(*index_map.index.shape, width) for x in (found, wanted)]
    for step in reversed(suspect.chain.steps[len(suspect.chain.steps) - undone :]):
        if step.name.startswith(("slice", "pad", "flatten")):
            return None
        try:
            order = torch.arange(pair[0][..., 0].numel()).reshape(pair[0].shape[:-1])
            back = step.undo(order)
        except (RuntimeError, IndexError, ValueError):
            return None
        pair = [
            x.flatten(0, -2)[back.flatten()].reshape(*back.shape, width) for x in pair
        ]
    if pair[0].ndim == 2:  # a bias: rows of one column
        pair = [x.unsqueeze(1) for x in pair]
    if pair[0].ndim > 3 and not undone:  # tiles: one after the other
        pair = [x.flatten(0, -3) for x in pair]
    return (pair[0], pair[1]) if pair[0].ndim == 3 else None


def _order(found: torch.Tensor, expected: torch.Tensor) -> list[int] | None:
    """Which expected line each found one is; None if one is none of them."""
    wanted, got = (_lines(x) for x in (expected, found))
    by_bytes: dict[bytes, list[int]] = {}
    for n, line in enumerate(wanted):
        by_bytes.setdefault(line, []).append(n)
    order = []
    for n, line in enumerate(got):
        if line == wanted[n]:
            # Another line of the same bytes may be meant: it is left open.
            order.append(n if len(by_bytes[line]) == 1 else -1)
            continue
        here = by_bytes.get(line)
        if here is None:
            return None
        order.append(here[0] if len(here) == 1 else -1)
    return order


def _lines(x: torch.Tensor) -> list[bytes]:
    rows = x.flatten(1).contiguous().numpy()
    return [row.tobytes() for row in rows]


def _at(suspect: Suspect, undone: int) -> str:
    names = suspect.chain.steps
    return f", before {names[len(names) - undone]}" if undone else ""


def _in(suspect: Suspect, wrong: list[int]) -> str:
    owned = suspect.prepared.shard.expert_range(suspect.prepared.config)
    if len(wrong) == len(owned):
        return ""
    experts = [owned[e] for e in wrong]
    return f", in {expert_words(experts, suspect.prepared.config.experts)} only"
