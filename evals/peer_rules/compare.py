"""A whole run: the designed data first, then every rule's own data and the suite."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from collections.abc import Sequence
from concurrent.futures import Executor
from concurrent.futures import Future
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import as_completed
from typing import Any

import torch

from mxmoe.evals.peer_rules.findings import Finding
from mxmoe.evals.peer_rules.findings import Result
from mxmoe.evals.peer_rules.peers import PEERS
from mxmoe.evals.peer_rules.planted import FAULTS
from mxmoe.evals.peer_rules.planted import VARIANTS
from mxmoe.evals.peer_rules.tasks import by_the_suite
from mxmoe.evals.peer_rules.tasks import on_designed
from mxmoe.evals.peer_rules.tasks import on_own_data
from mxmoe.reference.errors import BadInput

Say = Callable[[str], None]

# Candidates in one piece of work: so few that processes end together, so many that
# preparing the data is the small part.
_ON_DESIGNED, _ON_OWN, _BY_SUITE = 56, 64, 12


def compare(
    *,
    seeds: int,
    faults: Sequence[str] = (),
    peers: Sequence[str] = (),
    correct: Sequence[str] = tuple(VARIANTS),
    jobs: int | None = None,
    say: Say = lambda line: None,
) -> Result:
    """Ask every rule about every fault that changes an output, and about `correct`.

    faults, peers : all if empty; `BadInput` for names that do not exist. jobs : worker
    processes, one a core by default.
    """
    chosen = _chosen("--fault", faults, FAULTS)
    rules = _chosen("--peer", peers, PEERS)
    workers = jobs or os.cpu_count() or 1
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        work = _Work(pool, say)
        for seed in range(seeds):
            for piece, rest in _both(chosen, correct, _ON_DESIGNED):
                work.add("designed data", seed, on_designed, piece, rest, seed)
        effects: dict[str, float] = {}
        findings: list[Finding] = []
        for found, more in work.results():
            findings += more
            for name, effect in found.items():
                effects[name] = max(effect, effects.get(name, 0.0))
        rows = [name for name in chosen if name in effects]
        for seed in range(seeds):
            for peer in rules:
                for piece, rest in _both(rows, correct, _ON_OWN):
                    work.add(peer, seed, on_own_data, peer, piece, rest, seed)
        for piece, rest in _both(rows, correct, _BY_SUITE):
            work.add("mxmoe", 0, by_the_suite, piece, rest)
        for more in work.results():
            findings += more
    return Result(
        rules=tuple(rules),
        effects={name: effects[name] for name in rows},
        silent=tuple(name for name in chosen if name not in effects),
        correct=tuple(correct),
        findings=tuple(findings),
    )


class _Work:
    """Pieces under way; their results in the order in which they were added."""

    def __init__(self, pool: Executor, say: Say) -> None:
        self._pool, self._say = pool, say
        self._added: list[Future[Any]] = []
        self._names: dict[Future[Any], str] = {}
        self._start = time.monotonic()

    def add(
        self, name: str, seed: int, task: Callable[..., Any], *arguments: Any
    ) -> None:
        """Queue one piece."""
        future = self._pool.submit(task, *arguments)
        self._added.append(future)
        self._names[future] = f"{name}, seed {seed}"

    def results(self) -> list[Any]:
        """Wait for what was added since the last call."""
        added, self._added = self._added, []
        for done, future in enumerate(as_completed(added), 1):
            future.result()
            seconds = time.monotonic() - self._start
            name = self._names[future]
            self._say(f"peers: {done} of {len(added)}: {name} ({seconds:.0f} s)")
        return [future.result() for future in added]


def _both(
    faults: Sequence[str], correct: Sequence[str], most: int
) -> list[tuple[list[str], list[str]]]:
    """Faults and variants in pieces of alike size, `most` names in each at most."""
    count = -(-(len(faults) + len(correct)) // most)
    return [(list(faults[n::count]), list(correct[n::count])) for n in range(count)]


def _chosen(option: str, asked: Sequence[str], known: Sequence[str] | Any) -> list[str]:
    for name in asked:
        if name not in known:
            raise BadInput(
                f"{option}: expected one of {', '.join(known)}, found {name!r}"
            )
    return [name for name in known if not asked or name in asked]
