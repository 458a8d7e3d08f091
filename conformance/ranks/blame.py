"""Which rank ended a launch, and in what, from journals and exit codes."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from mxmoe.conformance.ranks.journal import BROKEN
from mxmoe.conformance.ranks.journal import CALLS
from mxmoe.conformance.ranks.journal import DONE
from mxmoe.conformance.ranks.journal import FAILED
from mxmoe.conformance.ranks.journal import Entry
from mxmoe.conformance.verdict import Verdict

# How torchrun reports a rank that failed; it ends the others with SIGTERM.
_REPORTED = re.compile(r"rank\s*: (\d+) .*\n\s*exitcode\s*: (-?\d+)")


@dataclass(frozen=True, kw_only=True)
class RankFailure:
    """The candidate's doing: `lines` say in what, on which rank, in case `case`."""

    verdict: Verdict
    rank: int | None
    case: int
    lines: tuple[str, ...]


def blame(
    journals: Sequence[Sequence[Entry]], said: str, stalled: float | None
) -> RankFailure:
    """Who did it. Raises `RuntimeError` where it was not the candidate.

    said : torchrun's own words. stalled : seconds without progress, if the ranks were
    ended for that.
    """
    last = [journal[-1] if journal else None for journal in journals]
    failed = [(e.time, r) for r, e in enumerate(last) if e and e.what == FAILED]
    if failed:
        return _raised(min(failed)[1], last)
    if stalled is not None:
        return _stood_still(last, stalled)
    for rank, code in _exits(said):
        entry = last[rank]
        if entry and entry.what in CALLS and code != -signal.SIGTERM:
            return _died(rank, entry, code)
    for rank, code in _exits(said):
        entry = last[rank]
        silent = entry and entry.what not in (BROKEN, DONE)
        if entry and silent and code != -signal.SIGTERM:
            return _died(rank, entry, code)
    broken = [e.facts["text"] for e in last if e and e.what == BROKEN]
    raise RuntimeError(f"the ranks failed: {broken[0] if broken else said}")


def _raised(rank: int, last: Sequence[Entry | None]) -> RankFailure:
    entry = last[rank]
    assert entry is not None
    first, *rest = str(entry.facts["text"]).splitlines()
    return RankFailure(
        verdict=Verdict(entry.facts["verdict"]),
        rank=rank,
        case=entry.case,
        lines=(f"rank {rank}: {first}", *rest, *_others(rank, last)),
    )


def _died(rank: int, entry: Entry, code: int) -> RankFailure:
    how = f"exit code {code}"
    if code < 0:
        how = signal.Signals(-code).name
    return RankFailure(
        verdict=Verdict.CRASH,
        rank=rank,
        case=entry.case,
        lines=(f"rank {rank}: the process died in {entry.what} ({how})",),
    )


def _stood_still(last: Sequence[Entry | None], seconds: float) -> RankFailure:
    if any(entry is None for entry in last):
        raise RuntimeError(f"the ranks did not start in {seconds:g} s")
    at = [entry for entry in last if entry is not None]
    hanging = [r for r, entry in enumerate(at) if entry.what in CALLS]
    waiting = [entry.case for entry in at if entry.what != DONE]
    case = min(waiting, default=-1)
    if hanging:
        rank = hanging[0]
        first = f"rank {rank}: {at[rank].what} did not return in {seconds:g} s"
        return RankFailure(
            verdict=Verdict.TIMEOUT,
            rank=rank,
            case=at[rank].case,
            lines=(first, *_others(rank, last)),
        )
    return RankFailure(
        verdict=Verdict.TIMEOUT,
        rank=None,
        case=case,
        lines=(
            f"the ranks wait for each other since {seconds:g} s: {_places(at)}",
            "why    one of them reduces more often than another",
        ),
    )


def _others(rank: int, last: Sequence[Entry | None]) -> tuple[str, ...]:
    others = [e for r, e in enumerate(last) if r != rank and e is not None]
    return (f"meanwhile: {_places(others)}",) if others else ()


def _places(entries: Sequence[Entry]) -> str:
    """``2 ranks in all_reduce, 1 in forward``"""
    counts: dict[str, int] = {}
    for entry in entries:
        counts[entry.what] = counts.get(entry.what, 0) + 1
    return ", ".join(f"{n} rank{'s' * (n > 1)} in {what}" for what, n in counts.items())


def _exits(said: str) -> list[tuple[int, int]]:
    """(rank, exit code) of each rank that torchrun reports, the root cause first."""
    root = said.rpartition("Root Cause")[2]
    found = [*_REPORTED.findall(root), *_REPORTED.findall(said)]
    return [(int(rank), int(code)) for rank, code in dict.fromkeys(found)]
