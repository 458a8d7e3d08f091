"""What the child is doing, in memory that outlives it."""

from __future__ import annotations

import mmap
import struct
import time
from dataclasses import dataclass
from pathlib import Path

# In a call?, one that only explains?, since when (monotonic, the same clock in every
# process), how many seconds it may take, of what length the words are, the words.
_FORM = struct.Struct("??ddi200s")


@dataclass(frozen=True)
class Doing:
    """`what` is a member of the candidate: being called, or the last that was.

    aside : it is called to explain a failure that is known already.
    """

    calling: bool
    since: float
    seconds: float
    what: str
    aside: bool = False

    def overdue(self, grace: float) -> bool:
        """Whether it has taken longer than it may, by `grace` seconds."""
        return time.monotonic() > self.since + self.seconds + grace


class Beacon:
    """Written by the child before and after each call, read by the host at any time."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _FORM.size)

    @classmethod
    def create(cls, path: Path) -> Beacon:
        """A new one, in a file at `path`."""
        path.write_bytes(bytes(_FORM.size))
        return cls(path)

    def show(
        self, what: str, *, calling: bool, seconds: float, aside: bool = False
    ) -> None:
        """From now on `what`, for at most `seconds`."""
        words = what.encode()[:200]
        self._memory[:] = _FORM.pack(
            calling, aside, time.monotonic(), seconds, len(words), words
        )

    def read(self) -> Doing:
        """What was shown last."""
        calling, aside, since, seconds, length, words = _FORM.unpack(self._memory[:])
        what = words[:length].decode(errors="replace")
        return Doing(calling, since, seconds, what, aside)

    def close(self) -> None:
        """Unmap the memory."""
        self._memory.close()
