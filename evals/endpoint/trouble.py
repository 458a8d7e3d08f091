"""Why a request brought no answer, and whether it may be sent again.

A retry must not improve a score, so a question that was answered is never asked again.
"""

from __future__ import annotations

from enum import StrEnum


class Trouble(StrEnum):
    """What went wrong with one attempt."""

    # The server did not begin: no connection, 429, 503. Sending again asks once.
    REFUSED = "refused"
    # It may have begun: another 5xx, a cut connection, a body that is no JSON.
    BROKEN = "broken"
    # It had begun and took too long. Long answers are wrong more often than short ones:
    # asking again until one is quick would choose.
    TIME_OUT = "time-out"
    # It does not want this request: a redirect, 4xx.
    REJECTED = "rejected"
    # It answered, but not what was asked: no content, other model, no token counts.
    UNUSABLE = "unusable"

    def may_ask_again(self, *, temperature: float) -> bool:
        """Whether the same request may follow.

        At temperature 0 the same answer comes, so nothing is chosen.
        """
        if self is Trouble.REFUSED:
            return True
        return self is Trouble.BROKEN and temperature == 0

    def may_go_on(self, *, temperature: float) -> bool:
        """Whether a run that ended with it may ask the question when it goes on."""
        if self in (Trouble.REFUSED, Trouble.REJECTED):
            return True
        return self is not Trouble.UNUSABLE and temperature == 0


class RequestFailed(Exception):
    """One attempt brought no answer; str() says why, in one line.

    status : of HTTP, if there was one. retry_after : seconds the server asked to wait.
    """

    def __init__(
        self,
        trouble: Trouble,
        said: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(said)
        self.trouble = trouble
        self.status = status
        self.retry_after = retry_after
