"""Many questions in flight at one endpoint; each answer as it comes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from pathlib import Path
from random import Random

import httpx

from mxmoe.evals.endpoint.address import Address
from mxmoe.evals.endpoint.api_key import ApiKey
from mxmoe.evals.endpoint.asked import Asked
from mxmoe.evals.endpoint.attempts import ANSWERED
from mxmoe.evals.endpoint.attempts import CANCELLED
from mxmoe.evals.endpoint.attempts import Attempt
from mxmoe.evals.endpoint.attempts import append_attempt
from mxmoe.evals.endpoint.backoff import wait_before
from mxmoe.evals.endpoint.limits import Limits
from mxmoe.evals.endpoint.post import open_client
from mxmoe.evals.endpoint.post import post
from mxmoe.evals.endpoint.reply import Reply
from mxmoe.evals.endpoint.reply import read_reply
from mxmoe.evals.endpoint.reply import unusable
from mxmoe.evals.endpoint.sent import check_reply
from mxmoe.evals.endpoint.task import EndpointTask
from mxmoe.evals.endpoint.trouble import RequestFailed
from mxmoe.evals.gate.answer_lines import AnswerLine


class NoAnswer(Exception):
    """A question that has no answer; str() says which and why."""

    def __init__(self, question: int, attempts: int, failed: RequestFailed) -> None:
        tries = f" in {attempts} attempts" if attempts > 1 else ""
        super().__init__(f"question {question} has no answer{tries}: {failed}")
        self.trouble = failed.trouble


class OutOfTime(Exception):
    """The run's time is over."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server and how it is asked."""

    address: Address
    key: ApiKey
    asked: Asked
    limits: Limits
    concurrency: int


class Asker:
    """Asks an endpoint the questions of a task, at most `concurrency` at once.

    Every attempt is appended to the run directory when it ends. Raises `NoAnswer` when
    a question is given up, after the answers that had come; those in flight are
    cancelled then, and when the iterator is closed. `until` : of `time.monotonic`,
    after which `OutOfTime` is raised.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        task: EndpointTask,
        run: Path,
        *,
        reply_ids: Sequence[str] = (),
        until: float = float("inf"),
    ) -> None:
        self._endpoint, self._task, self._run = endpoint, task, run
        self._until = until
        self._reply_ids = set(reply_ids)
        # Jitter need not be repeatable: it exists to differ.
        self._random = Random()

    def __call__(self, questions: Sequence[int]) -> Generator[AnswerLine, None, None]:
        """The answers in the order in which they come."""
        running: dict[asyncio.Task[AnswerLine], int] = {}
        with asyncio.Runner() as runner:
            client = open_client(
                self._endpoint.address,
                self._endpoint.key,
                self._endpoint.limits,
                connections=self._endpoint.concurrency,
            )
            waiting = deque(questions)
            try:
                while waiting or running:
                    while waiting and len(running) < self._endpoint.concurrency:
                        question = waiting.popleft()
                        asking = self._ask(client, question)
                        running[runner.get_loop().create_task(asking)] = question
                    done = runner.run(self._first(running))
                    for task in sorted(done, key=lambda t: t.exception() is not None):
                        del running[task]
                        yield task.result()
            finally:
                runner.run(_cancel(list(running)))
                runner.run(client.aclose())

    async def _first(
        self, running: dict[asyncio.Task[AnswerLine], int]
    ) -> set[asyncio.Task[AnswerLine]]:
        left = self._until - time.monotonic()
        done, _ = await asyncio.wait(
            running,
            timeout=None if left == float("inf") else max(0.0, left),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not done:
            raise OutOfTime
        return done

    async def _ask(self, client: httpx.AsyncClient, question: int) -> AnswerLine:
        limits, sampling = self._endpoint.limits, self._endpoint.asked.sampling
        number = 1
        while True:
            try:
                attempt, reply = await self._attempt(client, question, number)
                return answer_line(self._task, attempt, reply)
            except RequestFailed as failed:
                again = failed.trouble.may_ask_again(temperature=sampling.temperature)
                number += 1
                wait = wait_before(number, failed.retry_after, limits, self._random)
                if not again or number > limits.attempts or wait is None:
                    raise NoAnswer(question, number - 1, failed) from None
            await asyncio.sleep(wait)

    async def _attempt(
        self, client: httpx.AsyncClient, question: int, number: int
    ) -> tuple[Attempt, Reply]:
        started, begun = datetime.now(UTC), time.perf_counter()

        def ended(outcome: str, said: str = "", **more: object) -> Attempt:
            attempt = Attempt(
                question=question,
                number=number,
                started=started.isoformat(timespec="milliseconds"),
                seconds=round(time.perf_counter() - begun, 4),
                outcome=outcome,
                said=said,
                **more,  # type: ignore[arg-type]
            )
            append_attempt(self._run, attempt)
            return attempt

        try:
            reply = await self._reply(client, question)
        except asyncio.CancelledError:
            ended(CANCELLED)
            raise
        except RequestFailed as failed:
            said = self._endpoint.key.scrub(str(failed))
            ended(failed.trouble, said, status=failed.status)
            raise RequestFailed(
                failed.trouble, said, retry_after=failed.retry_after
            ) from None
        return ended(ANSWERED, reply=reply), reply

    async def _reply(self, client: httpx.AsyncClient, question: int) -> Reply:
        endpoint, asked = self._endpoint, self._endpoint.asked
        body = await post(
            client,
            endpoint.address.url(asked.api),
            asked.body(self._task.task.conversations[question]),
            endpoint.limits,
            at_most=Limits.body_bytes(asked.sampling.output_tokens),
        )
        reply = scrubbed(read_reply(body, asked.api), endpoint.key.scrub)
        tokens = self._task.tokens
        expected = tokens[question] if tokens is not None else None
        check_reply(reply, asked, prompt_tokens=expected)
        if reply.reply_id in self._reply_ids:
            raise unusable(f"expected a reply of its own, found {reply.reply_id} again")
        if reply.reply_id:
            self._reply_ids.add(reply.reply_id)
        return reply


def answer_line(task: EndpointTask, attempt: Attempt, reply: Reply) -> AnswerLine:
    """The line of an answered question.

    Its tokens are the server's count. An endpoint shows no logits, so `finite` says
    only that nothing else was seen; the verdict names it as not verified.
    """
    return AnswerLine(
        question=attempt.question,
        prompt_sha256=task.prompt_sha256(attempt.question),
        text=reply.text,
        extracted=task.task.extract(reply.text),
        correct=task.task.is_correct(attempt.question, reply.text),
        tokens=reply.completion_tokens,
        finish_reason=reply.finish_reason,
        finite=True,
        seconds=attempt.seconds,
    )


def scrubbed(reply: Reply, scrub: Callable[[str], str]) -> Reply:
    """A reply in which the server does not repeat the key."""
    return replace(
        reply,
        reply_id=reply.reply_id and scrub(reply.reply_id),
        model=reply.model and scrub(reply.model),
        text=scrub(reply.text),
        reasoning=scrub(reply.reasoning),
    )


async def _cancel(tasks: Sequence[asyncio.Task[AnswerLine]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
