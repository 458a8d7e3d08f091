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

from mxmoe.conformance.judging.compare_bytes import as_bytes
from mxmoe.conformance.why_bytes.chain_places import expert_words
from mxmoe.conformance.why_bytes.suspect import Suspect
from mxmoe.reference.layouts.steps import row_shuffle
from mxmoe.reference.types import BLOCK_BYTES

# Above it the rows of one expert take longer than a second to look up.
_LARGEST_BYTES = 2**25
_LISTED = 3
# Of a longer line, blocks of every size take longer than a second to try.
_LONGEST = 2**14

# What has the size of a run.
_WORDS = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
    BLOCK_BYTES: torch.complex128,
}

# Lines that may stay together where others change places: powers of two.
_GROUPS = (1, 2, 4, 8, 16, 32, 64)

Rule = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _View:
    """Lines of the tensor `undone` steps earlier: rows or columns, of runs or bytes."""

    undone: int
    axis: int
    single: bool

    def lines(self, x: torch.Tensor) -> list[bytes]:
        """Of one of a pair of `_undone`."""
        shown = as_bytes(x) if self.single else as_bytes(x.unsqueeze(-1))
        rows = shown.transpose(0, self.axis).flatten(1).contiguous().numpy()
        return [row.tobytes() for row in rows]

    def words(self, suspect: Suspect) -> str:
        """What a line is called."""
        if self.single:
            return "byte columns"
        if not self.undone and suspect.index_map.index.ndim > 2:
            return ("tiles", "bytes of each tile")[self.axis]
        return ("rows", "columns")[self.axis]


def explain_row_order(suspect: Suspect) -> list[str]:
    """What order the rows, else the columns, of the differing experts have."""
    if suspect.prepared.found[0].nbytes > _LARGEST_BYTES:
        return []
    first, *others = suspect.differs.any(dim=1).nonzero().flatten().tolist()
    for undone, pair in _undone(suspect, first):
        for axis, single in ((0, False), (1, False), (1, True)):
            view = _View(undone, axis, single)
            if single and pair[0].element_size() == 1:
                continue
            order = _order(*map(view.lines, pair))
            words = order and describe_order(order, view.words(suspect))
            if words and order and all(_so(suspect, view, order, e) for e in others):
                return [
                    f"{words}{_at(suspect, undone)}{_in(suspect, [first, *others])}"
                ]
    return []


def _so(suspect: Suspect, view: _View, order: list[int], expert: int) -> bool:
    """Whether another expert has the same order."""
    pair = next((p for n, p in _undone(suspect, expert) if n == view.undone), None)
    other = None if pair is None else _order(*map(view.lines, pair))
    return other is not None and _agree(order, other)


def _agree(order: list[int], other: list[int]) -> bool:
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
    sizes = sizes if count <= _LONGEST else []
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
        yield from _transposed(b, count)


def _transposed(b: int, count: int) -> Iterator[tuple[str, Rule]]:
    """Each `b` lines as a matrix, transposed; also of groups that stay together."""
    inside = "" if b == count else f" in each {b}"
    grouped = [u for u in _GROUPS if b & b - 1 == 0 and 4 * u <= b] or [1]
    for u in grouped:
        size, kept = b // u, "" if u == 1 else f" in groups of {u}"
        for a in (a for a in range(2, size) if size % a == 0):

            def rule(n: torch.Tensor, a: int = a, u: int = u) -> torch.Tensor:
                group, size = n % b // u, b // u
                return n - n % b + (group % a * (size // a) + group // a) * u + n % u

            yield f"transposed as {a} x {size // a}{kept}{inside}", rule


def _undone(
    suspect: Suspect, expert: int
) -> Iterator[tuple[int, tuple[torch.Tensor, torch.Tensor]]]:
    """(n, found and expected [rows, columns] of runs) before the last n steps."""
    prepared, index_map = suspect.prepared, suspect.index_map
    found = index_map.plain(prepared.found[expert].cpu())
    dtype = prepared.weights.tensors()[index_map.source].dtype
    source = suspect.source[expert].view(dtype)
    wanted = index_map.plain(index_map.gather_expert(source))
    # A run of bytes is one word, so that steps see rows and columns.
    word = _WORDS[index_map.width * found.element_size()]
    pair = [x.contiguous().view(word) for x in (found, wanted)]
    pair = [x.reshape(index_map.index.shape) for x in pair]
    steps = suspect.chain.steps
    for undone in range(len(steps) + 1):
        if undone:
            step = steps[len(steps) - undone]
            if step.name.startswith(("slice", "pad", "flatten")):
                return
            try:
                pair = [step.undo(x) for x in pair]
            except (RuntimeError, IndexError, ValueError):
                return
        if pair[0].ndim == 1:  # a bias: rows of one column
            yield undone, (pair[0].unsqueeze(1), pair[1].unsqueeze(1))
        elif pair[0].ndim == 2:
            yield undone, (pair[0], pair[1])
        elif not undone:  # tiles: one after the other
            yield undone, (pair[0].flatten(0, -2), pair[1].flatten(0, -2))


def _order(got: list[bytes], wanted: list[bytes]) -> list[int] | None:
    """Which expected line each found one is; None if one is none of them."""
    by_bytes: dict[bytes, list[int]] = {}
    for n, line in enumerate(wanted):
        by_bytes.setdefault(line, []).append(n)
    if any(line not in by_bytes for line in got):
        return None
    # Another line of the same bytes may be meant: it is left open.
    fitting = [by_bytes[line] for line in got]
    return [fit[0] if len(fit) == 1 else -1 for fit in fitting]


def _at(suspect: Suspect, undone: int) -> str:
    names = suspect.chain.steps
    return f", before {names[len(names) - undone]}" if undone else ""


def _in(suspect: Suspect, wrong: list[int]) -> str:
    owned = suspect.prepared.shard.expert_range(suspect.prepared.config)
    if len(wrong) == len(owned):
        return ""
    experts = [owned[e] for e in wrong]
    return f", in {expert_words(experts, suspect.prepared.config.experts)} only"
