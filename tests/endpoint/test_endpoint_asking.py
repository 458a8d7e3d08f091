"""What is sent and kept, how many at once, and who hears of the key."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mxmoe.evals.endpoint.address import Api
from mxmoe.evals.endpoint.asked import Asked
from mxmoe.evals.endpoint.asking import Asker
from mxmoe.evals.endpoint.asking import Endpoint
from mxmoe.evals.endpoint.asking import NoAnswer
from mxmoe.evals.endpoint.attempts import read_attempts
from mxmoe.evals.endpoint.task import load_endpoint_task
from mxmoe.evals.endpoint.trouble import Trouble
from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.grade_school.frozen import load_test_problems

Ask = Callable[..., list[AnswerLine]]
EndpointOf = Callable[..., Endpoint]
Outcomes = Callable[[], list[str]]


def test_an_answer_after_failures_is_kept_with_them(
    server: Any, tmp_path: Path, endpoint_of: EndpointOf, ask: Ask, outcomes: Outcomes
) -> None:
    def behave(handler: Any, body: Any) -> None:
        if len(server.requests) < 3:
            return handler.send(429, b"", Retry_After="0.3")
        return handler.send_json(server.right(body))

    server.behaviour = behave
    begun = time.monotonic()
    [line] = ask(endpoint_of())
    assert line.correct
    assert time.monotonic() - begun >= 0.6
    assert outcomes() == [Trouble.REFUSED, Trouble.REFUSED, "answered"]
    [reply] = [a.reply for a in read_attempts(tmp_path) if a.reply]
    assert (reply.text, reply.prompt_tokens) == (line.text, 29)


def test_a_redirect_is_not_followed_and_gets_no_key(
    server: Any, other_server: Any, endpoint_of: EndpointOf, ask: Ask, key: str
) -> None:
    where = f"{other_server.url}/v1/completions"
    for status in (301, 302, 307, 308):
        server.behaviour = lambda handler, body, status=status: handler.send(
            status, b"", Location=where
        )
        with pytest.raises(NoAnswer, match="redirects are not followed") as found:
            ask(endpoint_of())
        assert found.value.trouble is Trouble.REJECTED
    assert server.headers[0]["Authorization"] == f"Bearer {key}"
    assert other_server.requests == []


def test_the_key_is_nowhere_but_in_the_header(
    server: Any, tmp_path: Path, endpoint_of: EndpointOf, ask: Ask, key: str
) -> None:
    def repeat(handler: Any, body: Any) -> None:
        text = f"{handler.headers['Authorization']} #### 7"
        if len(server.requests) == 1:
            return handler.send(500, text.encode())
        return handler.send_json(
            server.right(body, text, id=key, model=f"served@{key}")
        )

    server.behaviour = repeat
    endpoint = endpoint_of()
    [line] = ask(endpoint)
    assert line.text == "Bearer [key] #### 7"
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"[key]" in written
    assert key.encode() not in written
    assert key not in repr(endpoint)


def test_a_failure_says_nothing_of_the_key_in_its_traceback(
    server: Any, endpoint_of: EndpointOf, ask: Ask, key: str
) -> None:
    server.behaviour = lambda handler, body: handler.send(
        400, handler.headers["Authorization"].encode()
    )
    with pytest.raises(NoAnswer, match=r"Bearer \[key\]") as found:
        ask(endpoint_of())
    error: BaseException | None = found.value
    while error is not None:
        assert key not in f"{error!r} {error.args} {vars(error)}"
        error = error.__cause__


def test_a_reply_given_twice_is_no_answer_to_the_second(
    server: Any, tmp_path: Path, endpoint_of: EndpointOf
) -> None:
    server.behaviour = lambda handler, body: handler.send_json(
        server.right(body, id="same")
    )
    task = load_endpoint_task("grade_school")
    answers = Asker(endpoint_of(concurrency=1), task, tmp_path)([0, 1])
    assert next(answers).question == 0
    with pytest.raises(NoAnswer, match="reply of its own, found same again"):
        next(answers)


def test_bytes_after_a_reply_are_not_the_next_answer(
    server: Any, tmp_path: Path, endpoint_of: EndpointOf, ask: Ask
) -> None:
    def twice(handler: Any, body: Any) -> None:
        found = json.dumps(server.right(body, "#### 1")).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(found)))
        handler.end_headers()
        again = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(found)
        handler.wfile.write(found + again + found)

    server.behaviour = twice
    lines = ask(endpoint_of(concurrency=1), [0, 1, 2])
    assert [line.question for line in lines] == [0, 1, 2]
    ids = [a.reply.reply_id for a in read_attempts(tmp_path) if a.reply]
    assert ids == ["reply-0", "reply-1", "reply-2"]


def test_no_more_are_in_flight_than_allowed(
    server: Any, endpoint_of: EndpointOf, ask: Ask
) -> None:
    now, most = 0, 0

    def count(handler: Any, body: Any) -> None:
        nonlocal now, most
        with server.lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with server.lock:
            now -= 1
        handler.send_json(server.right(body))

    server.behaviour = count
    lines = ask(endpoint_of(concurrency=3), range(12))
    assert sorted(line.question for line in lines) == list(range(12))
    assert most == 3


def test_answers_that_came_are_given_before_a_failure_ends_the_run(
    server: Any, tmp_path: Path, endpoint_of: EndpointOf
) -> None:
    def behave(handler: Any, body: Any) -> None:
        if server.question(body) == 2:
            time.sleep(0.2)
            return handler.send(400, b"")
        return handler.send_json(server.right(body))

    server.behaviour = behave
    task = load_endpoint_task("grade_school")
    answers = Asker(endpoint_of(), task, tmp_path)([2, 0, 1])
    assert {next(answers).question, next(answers).question} == {0, 1}
    with pytest.raises(NoAnswer, match="question 2"):
        next(answers)


def test_closing_cancels_what_is_in_flight(
    server: Any, tmp_path: Path, endpoint_of: EndpointOf, outcomes: Outcomes
) -> None:
    def behave(handler: Any, body: Any) -> None:
        time.sleep(0 if server.question(body) == 5 else 1)
        handler.send_json(server.right(body))

    server.behaviour = behave
    begun = time.monotonic()
    answers = Asker(endpoint_of(), load_endpoint_task("grade_school"), tmp_path)(
        [3, 5, 4, 9, 11, 12]
    )
    assert next(answers).question == 5
    answers.close()
    assert time.monotonic() - begun < 0.9
    assert sorted(outcomes()) == ["answered", *["cancelled"] * 3]


def test_a_chat_sends_one_message_and_keeps_the_reasoning(
    server: Any, tmp_path: Path, endpoint_of: EndpointOf, ask: Ask
) -> None:
    def think(handler: Any, body: Any) -> None:
        found = server.right(body)
        found["choices"][0]["message"]["reasoning_content"] = "so 4 + 3"
        handler.send_json(found)

    server.behaviour = think
    endpoint = endpoint_of()
    sampling = replace(
        endpoint.asked.sampling, stops=("Question:",), reasoning_effort="low"
    )
    asked = Asked(api=Api.CHAT, model="served", sampling=sampling)
    [line] = ask(replace(endpoint, asked=asked))
    assert line.correct
    [attempt] = read_attempts(tmp_path)
    assert attempt.reply is not None
    assert attempt.reply.reasoning == "so 4 + 3"
    [body] = server.requests
    assert body["messages"] == [
        {"role": "user", "content": load_test_problems()[0].prompt}
    ]
    assert (body["stop"], body["reasoning_effort"]) == (["Question:"], "low")
    assert (body["temperature"], body["max_tokens"]) == (0.0, 160)


def test_reasoning_that_fills_the_limit_is_an_answer_that_was_cut(
    server: Any, endpoint_of: EndpointOf, ask: Ask
) -> None:
    def behave(handler: Any, body: Any) -> None:
        found = server.right(body, "7 " * 200)
        found["choices"][0]["text"] = None
        handler.send_json(found)

    server.behaviour = behave
    [line] = ask(endpoint_of())
    assert (line.text, line.correct) == ("", False)
    assert (line.finish_reason, line.tokens) == ("length", 160)
