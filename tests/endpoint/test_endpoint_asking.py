"""A server that fails gives no answer, and no second try at one it gave."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mxmoe.evals.endpoint.address import Api
from mxmoe.evals.endpoint.address import read_address
from mxmoe.evals.endpoint.api_key import ApiKey
from mxmoe.evals.endpoint.asked import Asked
from mxmoe.evals.endpoint.asked import Sampling
from mxmoe.evals.endpoint.asking import Asker
from mxmoe.evals.endpoint.asking import Endpoint
from mxmoe.evals.endpoint.asking import NoAnswer
from mxmoe.evals.endpoint.attempts import read_attempts
from mxmoe.evals.endpoint.limits import Limits
from mxmoe.evals.endpoint.task import load_endpoint_task
from mxmoe.evals.endpoint.trouble import Trouble
from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.grade_school.frozen import load_test_problems

QUICK = Limits(connect=1, request=2, attempts=3, first_wait=0.01, longest_wait=2)
KEY = "sk-secret-0123456789"


def endpoint_of(server: Any, **changes: Any) -> Endpoint:
    asked = Asked(
        api=Api.COMPLETIONS,
        model="served",
        sampling=Sampling(temperature=0.0, output_tokens=160),
    )
    endpoint = Endpoint(
        address=read_address(server.url),
        key=ApiKey(KEY),
        asked=asked,
        limits=QUICK,
        concurrency=4,
    )
    return replace(endpoint, **changes)


def ask(
    endpoint: Endpoint, run: Path, questions: Sequence[int] = (0,)
) -> list[AnswerLine]:
    return list(Asker(endpoint, load_endpoint_task("grade_school"), run)(questions))


def outcomes(run: Path) -> list[str]:
    return [attempt.outcome for attempt in read_attempts(run)]


def edited(**changes: Any) -> Callable[[Any, Any], None]:
    """The right reply with some fields changed."""
    return lambda handler, body: handler.send_json(
        {**handler.server.right(body), **changes}
    )


def with_choice(**changes: Any) -> Callable[[Any, Any], None]:
    def behave(handler: Any, body: Any) -> None:
        found = handler.server.right(body)
        found["choices"][0] |= changes
        handler.send_json(found)

    return behave


def with_status(status: int, **headers: str) -> Callable[[Any, Any], None]:
    return lambda handler, body: handler.send(status, b"busy", **headers)


def cut_connection(handler: Any, body: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(json.dumps(handler.server.right(body)).encode()[:90])


def half_a_body(handler: Any, body: Any) -> None:
    handler.send(200, json.dumps(handler.server.right(body)).encode()[:90])


def compressed(handler: Any, body: Any) -> None:
    handler.send(200, b"\x1f\x8b", Content_Encoding="gzip")


def endless(handler: Any, body: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 2**16)


def slow_drip(handler: Any, body: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def silence(handler: Any, body: Any) -> None:
    time.sleep(1)


def hang_up(handler: Any, body: Any) -> None:
    handler.close_connection = True


FAILURES = [
    ("500", with_status(500), Trouble.BROKEN, 3, "HTTP 500: busy"),
    ("429", with_status(429, Retry_After="0"), Trouble.REFUSED, 3, "HTTP 429"),
    ("503", with_status(503), Trouble.REFUSED, 3, "HTTP 503"),
    ("long wait", with_status(429, Retry_After="99"), Trouble.REFUSED, 1, "HTTP 429"),
    ("504", with_status(504), Trouble.TIME_OUT, 1, "HTTP 504"),
    ("401", with_status(401), Trouble.REJECTED, 1, "HTTP 401"),
    ("404", with_status(404), Trouble.REJECTED, 1, "HTTP 404"),
    ("201", with_status(201), Trouble.REJECTED, 1, "HTTP 201"),
    ("garbage", lambda h, b: h.send(200, b"<html>"), Trouble.BROKEN, 3, "JSON"),
    ("NaN", lambda h, b: h.send(200, b'{"a": NaN}'), Trouble.BROKEN, 3, "JSON"),
    ("deep", lambda h, b: h.send(200, b"[" * 10**6), Trouble.BROKEN, 3, "JSON"),
    ("cut", cut_connection, Trouble.BROKEN, 3, "RemoteProtocolError"),
    ("half", half_a_body, Trouble.BROKEN, 3, "expected JSON"),
    ("hang up", hang_up, Trouble.BROKEN, 3, "disconnected"),
    ("compressed", compressed, Trouble.BROKEN, 3, "without compression"),
    ("endless", endless, Trouble.BROKEN, 3, "at most 1171456 bytes"),
    ("drip", slow_drip, Trouble.TIME_OUT, 1, "no whole answer within 0.5 s"),
    ("silence", silence, Trouble.TIME_OUT, 1, "no whole answer within 0.5 s"),
    ("list", lambda h, b: h.send_json([]), Trouble.UNUSABLE, 1, "object"),
    ("error", lambda h, b: h.send_json({"error": "x"}), Trouble.UNUSABLE, 1, "choice"),
    ("no choice", edited(choices=[]), Trouble.UNUSABLE, 1, "one choice, found 0"),
    ("two", edited(choices=[{}, {}]), Trouble.UNUSABLE, 1, "one choice, found 2"),
    ("null", with_choice(text=None), Trouble.UNUSABLE, 1, "expected text, found None"),
    ("number", with_choice(text=7), Trouble.UNUSABLE, 1, "expected text, found 7"),
    ("abort", with_choice(finish_reason="abort"), Trouble.UNUSABLE, 1, "'abort'"),
    ("unended", with_choice(finish_reason=None), Trouble.UNUSABLE, 1, "found None"),
    (
        "early",
        with_choice(finish_reason="length"),
        Trouble.UNUSABLE,
        1,
        "another limit",
    ),
    ("no usage", edited(usage=None), Trouble.UNUSABLE, 1, "usage with both"),
    ("odd usage", edited(usage={"prompt_tokens": True}), Trouble.UNUSABLE, 1, "usage"),
    (
        "too long",
        edited(usage={"prompt_tokens": 29, "completion_tokens": 161}),
        Trouble.UNUSABLE,
        1,
        "expected at most 160 tokens, as asked, found 161",
    ),
    (
        "template",
        edited(usage={"prompt_tokens": 96, "completion_tokens": 38}),
        Trouble.UNUSABLE,
        1,
        "expected a prompt of 29 tokens, found that the server counts 96",
    ),
    ("other model", edited(model="gpt-4"), Trouble.UNUSABLE, 1, "'served', found 'gpt"),
]


@pytest.mark.parametrize(
    ("behaviour", "trouble", "requests", "said"),
    [pytest.param(*rest, id=name) for name, *rest in FAILURES],
)
def test_a_failure_is_no_answer(
    server: Any,
    tmp_path: Path,
    behaviour: Any,
    trouble: Trouble,
    requests: int,
    said: str,
) -> None:
    server.behaviour = behaviour
    limits = replace(QUICK, request=0.5)
    with pytest.raises(NoAnswer, match="question 0 has no answer") as found:
        ask(endpoint_of(server, limits=limits), tmp_path)
    assert said in str(found.value)
    assert found.value.trouble is trouble
    assert len(server.requests) == requests
    assert outcomes(tmp_path) == [trouble] * requests


def test_a_server_that_is_not_there_is_tried_again(server: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = read_address(f"http://127.0.0.1:{free.getsockname()[1]}")
    endpoint = endpoint_of(server, address=nobody)
    with pytest.raises(NoAnswer, match="in 3 attempts: ConnectError"):
        ask(endpoint, tmp_path)
    assert outcomes(tmp_path) == [Trouble.REFUSED] * 3


def test_what_may_have_been_answered_is_asked_again_only_at_temperature_0(
    server: Any, tmp_path: Path
) -> None:
    server.behaviour = with_status(500)
    endpoint = endpoint_of(server)
    sampling = replace(endpoint.asked.sampling, temperature=1.0)
    warm = replace(endpoint, asked=replace(endpoint.asked, sampling=sampling))
    with pytest.raises(NoAnswer):
        ask(warm, tmp_path)
    assert len(server.requests) == 1
    server.behaviour = with_status(503)
    with pytest.raises(NoAnswer):
        ask(warm, tmp_path)
    assert len(server.requests) == 1 + QUICK.attempts


def test_an_answer_after_failures_is_kept_with_them(
    server: Any, tmp_path: Path
) -> None:
    def behave(handler: Any, body: Any) -> None:
        if len(server.requests) < 3:
            return handler.send(429, b"", Retry_After="0.3")
        return handler.send_json(server.right(body))

    server.behaviour = behave
    begun = time.monotonic()
    [line] = ask(endpoint_of(server), tmp_path)
    assert line.correct
    assert time.monotonic() - begun >= 0.6
    assert outcomes(tmp_path) == [Trouble.REFUSED, Trouble.REFUSED, "answered"]
    [reply] = [a.reply for a in read_attempts(tmp_path) if a.reply]
    assert (reply.text, reply.prompt_tokens) == (line.text, 29)


def test_a_redirect_is_not_followed_and_gets_no_key(
    server: Any, other_server: Any, tmp_path: Path
) -> None:
    where = f"{other_server.url}/v1/completions"
    for status in (301, 302, 307, 308):
        server.behaviour = with_status(status, Location=where)
        with pytest.raises(NoAnswer, match="redirects are not followed") as found:
            ask(endpoint_of(server), tmp_path)
        assert found.value.trouble is Trouble.REJECTED
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert other_server.requests == []


def test_the_key_is_nowhere_but_in_the_header(server: Any, tmp_path: Path) -> None:
    def repeat(handler: Any, body: Any) -> None:
        text = f"{handler.headers['Authorization']} #### 7"
        if len(server.requests) == 1:
            return handler.send(500, text.encode())
        return handler.send_json(
            server.right(body, text, id=KEY, model=f"served@{KEY}")
        )

    server.behaviour = repeat
    endpoint = endpoint_of(server)
    [line] = ask(endpoint, tmp_path)
    assert line.text == "Bearer [key] #### 7"
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"[key]" in written
    assert KEY.encode() not in written
    assert KEY not in repr(endpoint)


def test_a_failure_says_nothing_of_the_key_in_its_traceback(
    server: Any, tmp_path: Path
) -> None:
    server.behaviour = lambda handler, body: handler.send(
        400, handler.headers["Authorization"].encode()
    )
    with pytest.raises(NoAnswer, match=r"Bearer \[key\]") as found:
        ask(endpoint_of(server), tmp_path)
    error: BaseException | None = found.value
    while error is not None:
        assert KEY not in f"{error!r} {error.args} {vars(error)}"
        error = error.__cause__


def test_a_reply_given_twice_is_no_answer_to_the_second(
    server: Any, tmp_path: Path
) -> None:
    server.behaviour = edited(id="same")
    task = load_endpoint_task("grade_school")
    answers = Asker(endpoint_of(server, concurrency=1), task, tmp_path)([0, 1])
    assert next(answers).question == 0
    with pytest.raises(NoAnswer, match="reply of its own, found same again"):
        next(answers)


def test_bytes_after_a_reply_are_not_the_next_answer(
    server: Any, tmp_path: Path
) -> None:
    def twice(handler: Any, body: Any) -> None:
        found = json.dumps(server.right(body, "#### 1")).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(found)))
        handler.end_headers()
        again = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(found)
        handler.wfile.write(found + again + found)

    server.behaviour = twice
    lines = ask(endpoint_of(server, concurrency=1), tmp_path, [0, 1, 2])
    assert [line.question for line in lines] == [0, 1, 2]
    ids = [a.reply.reply_id for a in read_attempts(tmp_path) if a.reply]
    assert ids == ["reply-0", "reply-1", "reply-2"]


def test_no_more_are_in_flight_than_allowed(server: Any, tmp_path: Path) -> None:
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
    lines = ask(endpoint_of(server, concurrency=3), tmp_path, range(12))
    assert sorted(line.question for line in lines) == list(range(12))
    assert most == 3


def test_answers_that_came_are_given_before_a_failure_ends_the_run(
    server: Any, tmp_path: Path
) -> None:
    def behave(handler: Any, body: Any) -> None:
        if server.question(body) == 2:
            time.sleep(0.2)
            return handler.send(400, b"")
        return handler.send_json(server.right(body))

    server.behaviour = behave
    task = load_endpoint_task("grade_school")
    answers = Asker(endpoint_of(server), task, tmp_path)([2, 0, 1])
    assert {next(answers).question, next(answers).question} == {0, 1}
    with pytest.raises(NoAnswer, match="question 2"):
        next(answers)


def test_closing_cancels_what_is_in_flight(server: Any, tmp_path: Path) -> None:
    def behave(handler: Any, body: Any) -> None:
        time.sleep(0 if server.question(body) == 5 else 1)
        handler.send_json(server.right(body))

    server.behaviour = behave
    begun = time.monotonic()
    answers = Asker(endpoint_of(server), load_endpoint_task("grade_school"), tmp_path)(
        [3, 5, 4, 9, 11, 12]
    )
    assert next(answers).question == 5
    answers.close()
    assert time.monotonic() - begun < 0.9
    assert sorted(outcomes(tmp_path)) == ["answered", *["cancelled"] * 3]


def test_a_chat_sends_one_message_and_keeps_the_reasoning(
    server: Any, tmp_path: Path
) -> None:
    def think(handler: Any, body: Any) -> None:
        found = server.right(body)
        found["choices"][0]["message"]["reasoning_content"] = "so 4 + 3"
        handler.send_json(found)

    server.behaviour = think
    endpoint = endpoint_of(server)
    sampling = replace(
        endpoint.asked.sampling, stops=("Question:",), reasoning_effort="low"
    )
    asked = Asked(api=Api.CHAT, model="served", sampling=sampling)
    [line] = ask(replace(endpoint, asked=asked), tmp_path)
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
    server: Any, tmp_path: Path
) -> None:
    def behave(handler: Any, body: Any) -> None:
        found = server.right(body, "7 " * 200)
        found["choices"][0]["text"] = None
        handler.send_json(found)

    server.behaviour = behave
    [line] = ask(endpoint_of(server), tmp_path)
    assert (line.text, line.correct) == ("", False)
    assert (line.finish_reason, line.tokens) == ("length", 160)
