"""A server that fails gives no answer, and no second try at one it gave."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mxmoe.evals.endpoint.address import read_address
from mxmoe.evals.endpoint.asking import Endpoint
from mxmoe.evals.endpoint.asking import NoAnswer
from mxmoe.evals.endpoint.trouble import Trouble
from mxmoe.evals.gate.answer_lines import AnswerLine

Ask = Callable[..., list[AnswerLine]]
EndpointOf = Callable[..., Endpoint]
Outcomes = Callable[[], list[str]]


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
    behaviour: Any,
    trouble: Trouble,
    requests: int,
    said: str,
    endpoint_of: EndpointOf,
    ask: Ask,
    outcomes: Outcomes,
) -> None:
    server.behaviour = behaviour
    limits = replace(endpoint_of().limits, request=0.5)
    with pytest.raises(NoAnswer, match="question 0 has no answer") as found:
        ask(endpoint_of(limits=limits))
    assert said in str(found.value)
    assert found.value.trouble is trouble
    assert len(server.requests) == requests
    assert outcomes() == [trouble] * requests


def test_a_server_that_is_not_there_is_tried_again(
    server: Any, endpoint_of: EndpointOf, ask: Ask, outcomes: Outcomes
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = read_address(f"http://127.0.0.1:{free.getsockname()[1]}")
    endpoint = endpoint_of(address=nobody)
    with pytest.raises(NoAnswer, match="in 3 attempts: ConnectError"):
        ask(endpoint)
    assert outcomes() == [Trouble.REFUSED] * 3


def test_what_may_have_been_answered_is_asked_again_only_at_temperature_0(
    server: Any, endpoint_of: EndpointOf, ask: Ask
) -> None:
    server.behaviour = with_status(500)
    endpoint = endpoint_of()
    sampling = replace(endpoint.asked.sampling, temperature=1.0)
    warm = replace(endpoint, asked=replace(endpoint.asked, sampling=sampling))
    with pytest.raises(NoAnswer):
        ask(warm)
    assert len(server.requests) == 1
    server.behaviour = with_status(503)
    with pytest.raises(NoAnswer):
        ask(warm)
    assert len(server.requests) == 1 + endpoint.limits.attempts
