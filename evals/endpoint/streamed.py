"""One streamed answer, with the times at which its parts came."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from mxmoe.evals.endpoint.address import Api
from mxmoe.evals.endpoint.events import Events
from mxmoe.evals.endpoint.limits import Limits
from mxmoe.evals.endpoint.post import pieces
from mxmoe.evals.endpoint.reply import read_object
from mxmoe.evals.endpoint.reply import read_usage
from mxmoe.evals.endpoint.reply import reasoning_of
from mxmoe.evals.endpoint.reply import unusable
from mxmoe.evals.endpoint.trouble import RequestFailed
from mxmoe.evals.endpoint.trouble import Trouble

_DONE = b"[DONE]"


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """A whole answer. Times in seconds since the request was begun.

    text : reasoning and content in the order they came. pieces : events with text.
    arrivals : reads from the network that brought text. first, last : the first and
    last of them. prompt_tokens, completion_tokens : the server's own counts.
    """

    model: str | None
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    pieces: int
    arrivals: int
    first: float
    last: float

    @property
    def between_tokens(self) -> float:
        """Inter-token latency: the time after the first token, by the tokens in it."""
        return (self.last - self.first) / (self.completion_tokens - 1)


class _Collected:
    """What the events of one stream have said so far."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.texts: list[str] = []
        self.model: str | None = None
        self.finish_reason: str | None = None
        self.usage: object = None
        self.done = False

    def take(self, data: bytes) -> bool:
        """Whether the event holds text."""
        if self.done or data == _DONE:
            self.done = True
            return False
        found = read_object(data)
        if "error" in found:
            raise unusable(f"expected an event of the answer, found {found!r:.200}")
        self.usage = found.get("usage") or self.usage
        if isinstance(found.get("model"), str):
            self.model = found["model"]
        choices = found.get("choices")
        if not isinstance(choices, list) or len(choices) > 1:
            raise unusable(f"expected one choice, found {choices!r:.80}")
        return bool(choices) and self._take_choice(choices[0])

    def _take_choice(self, choice: Any) -> bool:
        said = choice.get("delta") if self._api is Api.CHAT else choice
        if not isinstance(said, dict):
            raise unusable(f"expected a piece of the answer, found {said!r:.80}")
        reason = choice.get("finish_reason")
        if isinstance(reason, str):
            self.finish_reason = reason
        text = said.get("content" if self._api is Api.CHAT else "text")
        whole = reasoning_of(said) + (text if isinstance(text, str) else "")
        self.texts += [whole] if whole else []
        return bool(whole)


async def stream_answer(
    client: httpx.AsyncClient,
    url: str,
    body: Mapping[str, Any],
    limits: Limits,
    api: Api,
    *,
    at_most: int,
) -> Streamed:
    """Ask once and time the answer; raises `RequestFailed`."""
    events, found = Events(), _Collected(api)
    arrivals: list[float] = []
    begun = time.perf_counter()
    async with contextlib.aclosing(
        pieces(client, url, body, limits, at_most=at_most)
    ) as received:
        async for piece in received:
            now = time.perf_counter() - begun
            if sum(found.take(data) for data in events.feed(piece)):
                arrivals.append(now)
    if found.finish_reason is None:
        raise RequestFailed(Trouble.BROKEN, "the stream ended before the answer did")
    prompt_tokens, completion_tokens = read_usage(found.usage)
    if not arrivals:
        raise unusable("expected text, found none")
    return Streamed(
        model=found.model,
        text="".join(found.texts),
        finish_reason=found.finish_reason,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        pieces=len(found.texts),
        arrivals=len(arrivals),
        first=arrivals[0],
        last=arrivals[-1],
    )
