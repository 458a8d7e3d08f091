"""A limit on one call into a candidate."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# A call on the largest case that the suite makes (a gpt-oss layer, a few tokens)
# takes seconds on two cores; a minute more is a hang.
CALL_SECONDS = 120.0


class CallTimedOut(Exception):
    """The candidate did not return in time."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `CallTimedOut` in the block after `seconds`.

    Uses SIGALRM, so it works on the main thread of a POSIX process and cannot
    interrupt a native call that never returns to Python; elsewhere it does
    nothing.
    """
    usable = hasattr(signal, "SIGALRM") and (
        threading.current_thread() is threading.main_thread()
    )
    if not usable:
        yield
        return

    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise CallTimedOut

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
