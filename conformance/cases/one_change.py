"""Which single change of a failing case makes it pass.

The smallest failing case does not say what of it matters: one token may fail where two
do not, or a layer without biases. So each property is changed alone, in small cases,
and the check is made again. A change counts only if other inputs pass with it as well.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from typing import Any
from typing import Protocol

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.search import Check
from mxmoe.conformance.judging.record import Record
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import SILU
from mxmoe.reference.types import SWIGLU_OAI
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

_AGAIN = "\nagain  "
# A fault that does not show in one of so many inputs is not there, or is rare.
_SEEDS = 3
# A case takes some milliseconds; a kernel that is compiled for each shape takes more.
_SECONDS = 2.0
# Of larger layers a call, or its truth, takes too long.
_LARGEST = 2**20
# One token; two; beyond a tile of 16.
_TOKENS = (1, 2, 33)
# No case has these numbers of tokens, so that a call with them is the first.
_UNUSUAL = (7, 11, 13)
# An even and an odd count of blocks, and a whole tile.
_DIMENSIONS = (64, 96, 128)


class Repeating(Protocol):
    """What is needed of a judge."""

    @property
    def record(self) -> Record:
        """Of the check."""

    def one(self, check: Check, case: Case) -> None:
        """Judge one case: raises `Failure` or `NotJudged` unless it passes."""

    def aside(self) -> Repeating:
        """A judge that leaves no trace in the record."""

    def may_explain(self) -> bool:
        """Whether the candidate may be called here to explain a failure."""


@dataclass(frozen=True)
class _Change:
    """phrase : ``with {} tokens``, the same for all values of one property."""

    phrase: str
    value: object
    case: Case


def say_what_passes(
    judge: Repeating,
    failure: Failure,
    check: Check,
    *,
    same_shard: bool,
) -> Failure:
    """`failure` with a line ``passes with 2 or 33 tokens; ...`` if something does.

    same_shard : the check is one of several ranks, and needs the shard that it has.
    """
    word = judge.record.case
    wrong = failure.verdict in (Verdict.MISMATCH, Verdict.NONFINITE)
    head, found, again = failure.text.rpartition(_AGAIN)
    if word is None or not (wrong and found and judge.may_explain()):
        return failure
    case, aside = parse_case(word), judge.aside()
    if _passes(aside, check, [case]):
        said = f"when run again: {_only_once(aside, check, case)}"
    elif case.config is None or _products(case.config) > _LARGEST:
        return failure
    else:
        said = _what_passes(aside, check, case, case.config, same_shard=same_shard)
    text = f"{head}\npasses {said}{found}{again}" if said else failure.text
    if judge.record.evidence is not None:
        judge.record.evidence[0]["text"] = text
    return Failure(failure.verdict, text)


def _what_passes(
    judge: Repeating,
    check: Check,
    case: Case,
    config: MoEConfig,
    *,
    same_shard: bool,
) -> str:
    stop = time.monotonic() + _SECONDS
    seeds = range(case.seed, case.seed + _SEEDS)
    for seed in seeds[1:]:
        if _passes(judge, check, [replace(case, seed=seed)]):
            return f"with other data, such as seed {seed}"
    told: dict[str, dict[bool, list[str]]] = {}
    for change in _changes(case, config, same_shard=same_shard):
        if time.monotonic() > stop:
            break
        tried = [replace(change.case, seed=seed) for seed in seeds]
        found = _passes(judge, check, tried)
        if found is not None:
            values = told.setdefault(change.phrase, {True: [], False: []})
            values[found].append(str(change.value))
    return "; ".join(
        _said(phrase, values[True], values[False])
        for phrase, values in told.items()
        if values[True]
    )


def _only_once(judge: Repeating, check: Check, case: Case) -> str:
    """What may have been wrong with the one call that failed."""
    new = [replace(case, tokens=count) for count in _UNUSUAL]
    twice = [[_passes(judge, check, [one]) for _ in range(2)] for one in new]
    if all(passed == [False, True] for passed in twice):
        return (
            "only the first call with each number of tokens fails, as if it tuned, "
            "compiled or filled a cache on the live output"
        )
    return "a race, or what earlier calls left behind"


def _passes(judge: Repeating, check: Check, cases: Iterable[Case]) -> bool | None:
    """Whether the check passes for all `cases`; None if one is not judged."""
    for case in cases:
        try:
            judge.one(check, case)
        except Failure:
            return False
        except NotJudged:
            return None
    return True


def _products(config: MoEConfig) -> int:
    return 3 * config.experts * config.hidden * config.intermediate


def _said(phrase: str, passing: Sequence[str], failing: Sequence[str]) -> str:
    """``with 2 or 33 tokens (not 1)``."""
    *first, last = passing
    values = f"{', '.join(first)} or {last}" if first else last
    phrase = phrase.removesuffix("s") if values == "1" else phrase
    rest = f" (not {', '.join(failing)})" if failing and "{}" in phrase else ""
    return phrase.format(values) + rest


def _changes(case: Case, config: MoEConfig, *, same_shard: bool) -> Iterator[_Change]:
    """Every change that is tried, the ones that say most first."""
    counts = {*_TOKENS, case.tokens - 1, case.tokens + 1} - {-1, 0, case.tokens}
    for count in sorted(counts):
        yield _Change("with {} tokens", count, replace(case, tokens=count))
    for spot in case.hot:
        rest = tuple(other for other in case.hot if other != spot)
        yield _Change(f"without {spot}", spot, replace(case, hot=rest))
    if not same_shard:
        for shard in _shards(case.shard):
            yield _Change("as {}", shard.label(), replace(case, shard=shard))
    yield from _configs(case, config)


def _configs(case: Case, config: MoEConfig) -> Iterator[_Change]:
    other = SILU if config.activation == SWIGLU_OAI else SWIGLU_OAI
    biases = "without biases" if config.has_bias else "with biases"
    edits: list[tuple[str, object, dict[str, Any]]] = [
        ("with activation {}", other.name, {"activation": other}),
        (biases, "", {"has_bias": not config.has_bias}),
    ]
    for name in ("hidden", "intermediate"):
        now = getattr(config, name)
        edits += [(f"with {name} {{}}", n, {name: n}) for n in _DIMENSIONS if n != now]
    edits += [
        ("with {} experts", n, {"experts": n})
        for n in (config.experts // 2, 2 * config.experts)
        if n >= config.top_k
    ]
    if config.top_k > 1:
        edits.append(("with top-k {}", 1, {"top_k": 1}))
    for phrase, value, edit in edits:
        try:
            changed = replace(case, config=replace(config, **edit))
        except BadInput:
            continue
        yield _Change(phrase, value, changed)


def _shards(shard: Shard) -> Iterator[Shard]:
    """The whole layer, the other kind of rank alone, the first and the last rank."""
    last_tp, last_ep = shard.tp_size - 1, shard.ep_size - 1
    tried = (
        WHOLE,
        replace(shard, tp_size=1, tp_rank=0),
        replace(shard, ep_size=1, ep_rank=0),
        replace(shard, tp_rank=0),
        replace(shard, tp_rank=last_tp),
        replace(shard, ep_rank=0),
        replace(shard, ep_rank=last_ep),
    )
    yield from (other for other in dict.fromkeys(tried) if other != shard)
