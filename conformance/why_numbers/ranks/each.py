"""Why the ranks of a group are wrong: each gives another mixture of right parts.

With p_s the true partial sum of rank s, B_r the routed down bias of the experts of rank
r and x the hidden states, every hypothesis says what each rank r gives:

    out_r = sum_s c_rs p_s + b_r B_r + d_r x

The right one is c_rs = 1 for r = s alone. It is named if every rank is within the bound
around it: a sum over ranks would hide what one rank adds in another's place.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from fractions import Fraction

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.reference.types import Shard

Tensor = torch.Tensor
# So many ranks are told of one by one.
_SHOWN = 3
_PAIR = 2


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the ranks of a group should give, by global rank, float64 on the CPU.

    partials, allowed : [r, t, h]. biases : [r, t, h] sum over k of p_k b2[e_k], of the
    experts of each rank. residual : [t, h] the hidden states. lanes : [r], how many
    each owns. dtype : of the outputs.
    """

    ranks: tuple[Shard, ...]
    partials: Tensor
    allowed: Tensor
    biases: Tensor
    residual: Tensor
    lanes: tuple[int, ...]
    dtype: torch.dtype

    def is_rank(self, out: Tensor, rank: int) -> bool:
        """Whether an output [t, h] is the part of `rank`."""
        return compare_numbers(out, self.partials[rank], self.allowed[rank]).within


@dataclass(frozen=True, kw_only=True)
class Each:
    """The coefficients of one hypothesis: mix [r, s], bias [r], residual [r]."""

    name: str
    mix: Tensor
    bias: Tensor
    residual: Tensor


def explain_each(outputs: Sequence[Tensor], parts: Parts) -> list[str]:
    """The hypotheses under which the output [t, h] of every rank is within bound."""
    wrong = [r for r, out in enumerate(outputs) if not parts.is_rank(out, r)]
    if not wrong:
        return []
    names = list[str]()
    seen = list[tuple[Tensor, ...]]()
    # The worst is asked first, as it refutes most.
    order = [*wrong, *(r for r in range(len(outputs)) if r not in wrong)]
    for each in _hypotheses(outputs, parts, wrong):
        meaning = each.mix, each.bias, each.residual
        if any(_same(meaning, other) for other in seen):
            continue  # with two ranks, several names have one meaning
        seen.append(meaning)
        if all(_fits(outputs[r], parts, each, r) for r in order):
            names.append(each.name)
    return names


def _same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _fits(out: Tensor, parts: Parts, each: Each, r: int) -> bool:
    c, bias, residual = each.mix[r], each.bias[r], each.residual[r]
    some = c.nonzero()[:, 0]
    told = torch.einsum("s,sth->th", c[some], parts.partials[some])
    room = torch.einsum("s,sth->th", c[some].abs(), parts.allowed[some])
    if bias or residual or len(some) > 1:
        told = told + bias * parts.biases[r] + residual * parts.residual
        room = room + half_ulp(told.abs() + room, parts.dtype)
    return compare_numbers(out, told, room).within


def _hypotheses(
    outputs: Sequence[Tensor], parts: Parts, wrong: Sequence[int]
) -> Iterator[Each]:
    """Every hypothesis that fits this group, those that say most first."""
    n = len(parts.ranks)
    none = torch.zeros(n, dtype=torch.float64)
    right = Each(name="", mix=torch.eye(n).double(), bias=none, residual=none)
    if bool(parts.biases.any()):
        yield from _shares(parts, right)
    yield from _of_some(parts, wrong, right)
    yield from _as_others(outputs, parts, wrong, right)
    yield from _of_all(parts, right)


def _shares(parts: Parts, right: Each) -> Iterator[Each]:
    """How much of its experts' down bias each rank adds: 1 / tp is right."""
    tp, ep = parts.ranks[0].tp_size, parts.ranks[0].ep_size
    once, each = Fraction(1), Fraction(1, tp)
    shares: list[tuple[str, Callable[[Shard], Fraction]]] = [
        (f"added {tp} times: not divided by tp", lambda s: once),
        ("divided by tp twice", lambda s: each**2),
        ("divided by ep, whose ranks share no expert", lambda s: each / ep),
        ("divided by ep, not by tp", lambda s: Fraction(1, ep)),
        ("on no rank", lambda s: Fraction(0)),
    ]
    for words, adds in (
        ("rank 0 of tp", lambda s: s.tp_rank == 0),
        ("the last rank of tp", lambda s: s.tp_rank == tp - 1),
        ("rank 0 of ep", lambda s: s.ep_rank == 0),
        ("rank 0 of all", lambda s: s.tp_rank == s.ep_rank == 0),
    ):
        shares.append((f"on {words} only", _on(adds, once)))
        shares.append((f"divided by tp, on {words} only", _on(adds, each)))
    for words, share in shares:
        bias = [float(share(rank) - each) for rank in parts.ranks]
        yield replace(right, name=f"down bias {words}", bias=_row(bias))
    bias = [-float(each) * (lanes == 0) for lanes in parts.lanes]
    words = "down bias not added by ranks that own no lane of i"
    yield replace(right, name=words, bias=_row(bias))


def _on(adds: Callable[[Shard], bool], share: Fraction) -> Callable[[Shard], Fraction]:
    return lambda rank: share if adds(rank) else Fraction(0)


def _row(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _of_some(parts: Parts, wrong: Sequence[int], right: Each) -> Iterator[Each]:
    """Each wrong rank gives nothing, or all of it twice."""
    some = list(wrong)
    if len(some) < len(parts.ranks) and bool(parts.partials[some].any()):
        for words, factor in (("missing", 0.0), ("added twice", 2.0)):
            mix = right.mix.clone()
            mix[some, some] = factor
            yield replace(right, name=f"{_ranks(parts, some)} {words}", mix=mix)
    for s, rank in enumerate(parts.ranks):
        if s not in some and bool(parts.partials[s].any()):
            mix = right.mix.clone()
            mix[some, s] = 1
            words = f"the part of {rank.label()} added to their own"
            yield replace(right, name=f"{_ranks(parts, some)}: {words}", mix=mix)


def _as_others(
    outputs: Sequence[Tensor], parts: Parts, wrong: Sequence[int], right: Each
) -> Iterator[Each]:
    """Ranks that take themselves for others."""
    ranks = parts.ranks
    tp, ep = ranks[0].tp_size, ranks[0].ep_size
    some = list(_as_some_others(outputs, parts, wrong, right))
    if len(wrong) < len(ranks) == _PAIR:
        yield from some  # one rank of two is no rule
    for words, choose in _CHOICES:
        taken = [choose(rank) for rank in ranks]
        if all(0 <= s.tp_rank < tp and 0 <= s.ep_rank < ep for s in taken):
            chosen = [ranks.index(s) for s in taken]
            yield replace(right, name=words, mix=right.mix[chosen])
    for s, rank in enumerate(ranks):
        name = f"every rank holds the part of {rank.label()}"
        yield replace(right, name=name, mix=right.mix[[s] * len(ranks)])
    yield from some


def _as_some_others(
    outputs: Sequence[Tensor], parts: Parts, wrong: Sequence[int], right: Each
) -> Iterator[Each]:
    """Each of few wrong ranks holds the part of another, by name."""
    ranks = parts.ranks
    likes = {
        r: [s for s in range(len(ranks)) if s != r and parts.is_rank(outputs[r], s)]
        for r in wrong
    }
    if not all(likes.values()) or len(likes) > _SHOWN:
        return
    for s in likes[wrong[0]]:
        chosen = list(range(len(ranks)))
        for r in wrong:
            chosen[r] = s if s in likes[r] else likes[r][0]
        words = " and ".join(
            f"rank {ranks[r].label()} holds the part of {ranks[chosen[r]].label()}"
            for r in wrong
        )
        yield replace(right, name=words, mix=right.mix[chosen])


def _turned(kind: str, by: int) -> Callable[[Shard], Shard]:
    def choose(s: Shard) -> Shard:
        size, rank = getattr(s, f"{kind}_size"), getattr(s, f"{kind}_rank")
        return replace(s, **{f"{kind}_rank": (rank + by) % size})

    return choose


def _reversed(kind: str) -> Callable[[Shard], Shard]:
    def choose(s: Shard) -> Shard:
        size, rank = getattr(s, f"{kind}_size"), getattr(s, f"{kind}_rank")
        return replace(s, **{f"{kind}_rank": size - 1 - rank})

    return choose


def _ep_innermost(s: Shard) -> Shard:
    number = s.ep_rank * s.tp_size + s.tp_rank
    return replace(s, tp_rank=number // s.ep_size, ep_rank=number % s.ep_size)


_CHOICES: tuple[tuple[str, Callable[[Shard], Shard]], ...] = (
    *(
        (f"every rank holds the part of rank 0 of {kind}", choose)
        for kind, choose in (
            ("tp", lambda s: replace(s, tp_rank=0)),
            ("ep", lambda s: replace(s, ep_rank=0)),
        )
    ),
    *(
        (f"every rank holds the part of {words} of {kind}", _turned(kind, by))
        for kind in ("tp", "ep")
        for words, by in (("the next rank", 1), ("the rank before", -1))
    ),
    *(
        (f"every rank holds a part dealt out from the last rank of {kind}", choose)
        for kind, choose in (("tp", _reversed("tp")), ("ep", _reversed("ep")))
    ),
    ("ranks counted with ep inside of tp", _ep_innermost),
    (
        "rank of tp taken for the rank of ep",
        lambda s: replace(s, ep_rank=s.tp_rank % s.ep_size),
    ),
    (
        "rank of ep taken for the rank of tp",
        lambda s: replace(s, tp_rank=s.ep_rank % s.tp_size),
    ),
)


def _of_all(parts: Parts, right: Each) -> Iterator[Each]:
    """All ranks make the same mistake."""
    ranks, n = parts.ranks, len(parts.ranks)
    tp, ep = ranks[0].tp_size, ranks[0].ep_size
    same_tp = _alike([s.tp_rank for s in ranks])
    same_ep = _alike([s.ep_rank for s in ranks])
    all_of = " and ".join(
        words for words, size in (("experts", ep), ("lanes", tp)) if size > 1
    )
    name = f"every rank computes the whole layer: all {all_of} ({n} times the sum)"
    yield replace(right, name=name, mix=torch.ones_like(right.mix))
    if tp > 1:
        share = _row([1 / tp - 1] * n)
        name = "every rank computes all lanes, and adds its share of the down bias"
        yield replace(right, name=name, mix=same_ep, bias=share)
        name = f"every rank computes all lanes ({tp} times the sum)"
        yield replace(right, name=name, mix=same_ep)
    if ep > 1:
        name = f"every rank computes all experts ({ep} times the sum)"
        yield replace(right, name=name, mix=same_tp)
    yield replace(right, name="mean over ranks, not the sum", mix=right.mix / n)
    factors = {"tp or ep": tp} if tp == ep else {"tp": tp, "ep": ep}
    for kind, size in factors.items():
        if 1 < size < n:
            name = f"the output of each rank divided by {kind} = {size}"
            yield replace(right, name=name, mix=right.mix / size)
    every = torch.ones(n, dtype=torch.float64)
    yield replace(right, name="each rank adds the hidden states", residual=every)
    first = right.mix[0]
    name = f"rank {ranks[0].label()} adds the hidden states"
    yield replace(right, name=name, residual=first)


def _alike(numbers: Sequence[int]) -> Tensor:
    """[n, n]: 1 where two ranks have one number."""
    given = torch.tensor(numbers)
    return (given[:, None] == given).double()


def _ranks(parts: Parts, some: Sequence[int]) -> str:
    labels = [parts.ranks[r].label() for r in some]
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return f"rank{'s' * (len(labels) > 1)} {', '.join(labels[:_SHOWN])}{more}"
