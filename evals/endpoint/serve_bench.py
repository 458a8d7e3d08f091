"""Latency of a server, measured only on answers that are what was asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import httpx

from mxmoe.evals.endpoint.address import Address
from mxmoe.evals.endpoint.address import Api
from mxmoe.evals.endpoint.api_key import ApiKey
from mxmoe.evals.endpoint.calibrate import prompt_of
from mxmoe.evals.endpoint.calibrate import words_of_length
from mxmoe.evals.endpoint.latency import Latency
from mxmoe.evals.endpoint.latency import latency_of
from mxmoe.evals.endpoint.limits import Limits
from mxmoe.evals.endpoint.post import open_client
from mxmoe.evals.endpoint.post import post
from mxmoe.evals.endpoint.reply import read_object
from mxmoe.evals.endpoint.reply import read_usage
from mxmoe.evals.endpoint.sent import same_model
from mxmoe.evals.endpoint.streamed import Streamed
from mxmoe.evals.endpoint.streamed import stream_answer
from mxmoe.evals.endpoint.trouble import RequestFailed
from mxmoe.evals.gate.checked import whole
from mxmoe.evals.gate.health import repeats
from mxmoe.reference.errors import BadInput

# Answers that go on to the wanted length whatever the model would do; vLLM, SGLang and
# TensorRT-LLM take both fields, others refuse unknown ones with one of these.
_UNKNOWN_FIELD = frozenset({400, 422})
# Speculative decoding brings a few tokens at once; a server or proxy that brings more
# does not stream, and the times between its pieces say nothing of tokens.
_MOST_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is measured.

    isl, osl : tokens of prompts and answers, as the server counts them. extra : fields
    of the request that an engine needs, as JSON.
    """

    api: Api
    model: str
    isl: int = 1000
    osl: int = 1000
    concurrency: int = 1
    requests: int = 20
    warmup: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole("--isl", self.isl, at_least=1, at_most=2**20)
        whole("--osl", self.osl, at_least=2, at_most=2**20)
        whole("--concurrency", self.concurrency, at_least=1, at_most=1024)
        whole("--requests", self.requests, at_least=1, at_most=10000)
        whole("--warmup", self.warmup, at_least=0, at_most=1000)
        ours = sorted(set(self.extra) & set(self._own("", forced=False, stream=True)))
        if ours:
            raise BadInput(f"--extra: expected other fields than {', '.join(ours)}")

    def body(self, prompt: str, *, forced: bool, stream: bool) -> dict[str, Any]:
        """A request; stream : of an answer that is timed, else of one token."""
        return {**self._own(prompt, forced=forced, stream=stream), **self.extra}

    def _own(self, prompt: str, *, forced: bool, stream: bool) -> dict[str, Any]:
        said: dict[str, Any] = {"prompt": prompt}
        if self.api is Api.CHAT:
            said = {"messages": [{"role": "user", "content": prompt}]}
        length = self.osl if stream else 1
        force = {"ignore_eos": True, "min_tokens": length} if forced else {}
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        return {
            "model": self.model,
            **said,
            "temperature": 0.0,
            "max_tokens": length,
            **force,
            **(streamed if stream else {}),
        }


@dataclass(frozen=True, kw_only=True)
class Measured:
    """refused : why there are no figures; answers and latency are empty then.

    forced : whether the server was told to go on to the wanted length.
    """

    answers: tuple[Streamed, ...] = ()
    latency: Latency | None = None
    forced: bool = True
    refused: tuple[str, ...] = ()


def measure(address: Address, key: ApiKey, limits: Limits, wanted: Wanted) -> Measured:
    """Calibrate the prompt, warm up, send all requests, look at what came.

    Nothing is sent twice: a request that fails refuses the whole measurement. Raises
    `BadInput` where no prompt has the wanted length.
    """
    return asyncio.run(_measure(address, key, limits, wanted))


async def _measure(
    address: Address, key: ApiKey, limits: Limits, wanted: Wanted
) -> Measured:
    forced = True
    async with open_client(
        address, key, limits, connections=wanted.concurrency
    ) as client:
        server = _Server(client, address.url(wanted.api), limits, wanted)
        try:
            forced = await server.can_force()
            words = await words_of_length(wanted.isl, server.count)
            for number in range(wanted.warmup):
                await server.answer(words, wanted.requests + 1 + number)
            begun = time.perf_counter()
            answers = await server.all_answers(words)
            seconds = time.perf_counter() - begun
        except RequestFailed as failed:
            return Measured(refused=(key.scrub(str(failed)),), forced=forced)
    reasons = tuple(key.scrub(reason) for reason in objections(answers, wanted))
    if reasons:
        return Measured(refused=reasons, forced=forced)
    return Measured(
        answers=tuple(answers),
        latency=latency_of(answers, seconds=seconds),
        forced=forced,
    )


class _Server:
    """Requests of one measurement."""

    def __init__(
        self, client: httpx.AsyncClient, url: str, limits: Limits, wanted: Wanted
    ) -> None:
        self._client, self._url = client, url
        self._limits, self._wanted = limits, wanted
        self._forced = True

    async def can_force(self) -> bool:
        """Whether it takes the fields that force the length; asks without else."""
        try:
            await self.count("")
        except RequestFailed as failed:
            if failed.status not in _UNKNOWN_FIELD:
                raise
            self._forced = False
        return self._forced

    async def count(self, prompt: str) -> int:
        """The prompt's tokens."""
        body = self._wanted.body(prompt or "a", forced=self._forced, stream=False)
        at_most = Limits.body_bytes(self._wanted.osl)
        found = await post(self._client, self._url, body, self._limits, at_most=at_most)
        return read_usage(read_object(found).get("usage"))[0]

    async def answer(self, words: Sequence[str], seed: int) -> Streamed:
        """One timed answer."""
        prompt = prompt_of(words, seed=seed)
        return await stream_answer(
            self._client,
            self._url,
            self._wanted.body(prompt, forced=self._forced, stream=True),
            self._limits,
            self._wanted.api,
            at_most=Limits.stream_bytes(self._wanted.osl),
        )

    async def all_answers(self, words: Sequence[str]) -> list[Streamed]:
        """As many as wanted, so many at once as wanted; the first failure ends all."""
        found: dict[int, Streamed] = {}
        waiting = iter(range(1, self._wanted.requests + 1))

        async def user() -> None:
            for seed in waiting:
                found[seed] = await self.answer(words, seed)

        try:
            async with asyncio.TaskGroup() as users:
                for _ in range(self._wanted.concurrency):
                    users.create_task(user())
        except* RequestFailed as failed:
            raise failed.exceptions[0] from None
        return [found[seed] for seed in sorted(found)]


def objections(answers: Sequence[Streamed], wanted: Wanted) -> list[str]:
    """One sentence a way in which answers are not what was asked for."""
    count = len(answers)
    found = []
    for name, expected, lengths in (
        ("prompts", wanted.isl, [answer.prompt_tokens for answer in answers]),
        ("answers", wanted.osl, [answer.completion_tokens for answer in answers]),
    ):
        other = [length for length in lengths if length != expected]
        if other:
            found.append(
                f"{len(other)} of {count} {name} have another length than {expected} "
                f"tokens, by the server's own count: {min(other)} to {max(other)}"
            )
    same = sum(repeats(answer.text) for answer in answers)
    if same:
        found.append(f"{same} of {count} answers repeat one word")
    models = {a.model for a in answers if a.model is not None}
    others = sorted(name for name in models if not same_model(wanted.model, name))
    if others:
        found.append(f"expected model {wanted.model!r}, found {others[0]!r:.200}")
    lying = sum(answer.pieces > answer.completion_tokens for answer in answers)
    if lying:
        found.append(f"{lying} of {count} answers came in more pieces than tokens")
    late = sum(a.completion_tokens > _MOST_AT_ONCE * a.arrivals for a in answers)
    if late or any(answer.first == answer.last for answer in answers):
        found.append("answers are not streamed: more than a few tokens come at once")
    return found
