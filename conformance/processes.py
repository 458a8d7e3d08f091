"""One process among those that torchrun started, or the only one."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from mxmoe.reference.errors import BadInput


@dataclass(frozen=True)
class Process:
    """`rank` of `count`, over all hosts; no process talks to another."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one process that reports and concludes."""
        return self.rank == 0

    def share(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        """Every `count`-th of `layers`, so that all processes end together."""
        return layers[self.rank :: self.count]


def this_process() -> Process:
    """From the variables that torchrun sets: RANK and WORLD_SIZE."""
    words = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")}
    if None in words.values():
        return Process()
    try:
        rank, count = (int(str(word)) for word in words.values())
    except ValueError:
        rank, count = 0, 0
    if not 0 <= rank < count:
        raise BadInput(
            "RANK, WORLD_SIZE: expected a rank below a number of processes, "
            f"found {words['RANK']!r:.20} and {words['WORLD_SIZE']!r:.20}"
        )
    return Process(rank, count)


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: torchrun sends it when another of its processes has died.

    A KeyboardInterrupt, so that a call into a candidate does not swallow it.
    """


@contextlib.contextmanager
def termination_raises() -> Iterator[None]:
    """Raise `Terminated` in the block on SIGTERM. For the main thread."""

    def terminate(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
