"""The data of server-sent events, from bytes that come in any pieces."""

from __future__ import annotations

from collections.abc import Iterator

_FIELD = b"data:"


class Events:
    """Collects bytes; gives the data of each event line that is whole.

    Engines write one line of data an event, so each line is taken as one.
    """

    def __init__(self) -> None:
        self._left = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data that `piece` completes."""
        *lines, self._left = (self._left + piece).split(b"\n")
        for line in lines:
            if line.startswith(_FIELD):
                yield line[len(_FIELD) :].strip()
