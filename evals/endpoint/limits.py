"""What a request may cost: time, bytes, attempts."""

from __future__ import annotations

from dataclasses import dataclass

from mxmoe.evals.gate.checked import between
from mxmoe.evals.gate.checked import whole

# JSON around an answer, and the largest token in it: o200k's is 128 bytes, and a byte
# takes at most 6 in JSON, as a \\u escape.
_FRAME, _TOKEN = 2**20, 128 * 6
# A chunk of a stream repeats names, model and id around each token.
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Limits:
    """All in seconds, unless said otherwise; `BadInput` for what cannot be.

    connect : until the connection stands. request : one attempt, from its first byte
    to the answer's last. attempts : of one question. first_wait : before the second
    attempt, doubled before each further one. longest_wait : a server that asks for
    more is given up.
    """

    connect: float = 10.0
    request: float = 600.0
    attempts: int = 4
    first_wait: float = 1.0
    longest_wait: float = 60.0

    def __post_init__(self) -> None:
        for name in ("connect", "request", "first_wait", "longest_wait"):
            between(name, getattr(self, name), 0, 86400)  # a day
        whole("attempts", self.attempts, at_least=1, at_most=10)

    @staticmethod
    def body_bytes(output_tokens: int) -> int:
        """The largest body of an answer of so many tokens."""
        return _FRAME + _TOKEN * output_tokens

    @staticmethod
    def stream_bytes(output_tokens: int) -> int:
        """The largest stream of one."""
        return _FRAME + (_CHUNK + _TOKEN) * output_tokens
