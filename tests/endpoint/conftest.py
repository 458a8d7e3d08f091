"""A server that speaks OpenAI's API and fails as it is told, on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx", reason="needs the extra 'endpoint'")

from mxmoe.evals.endpoint.address import Api
from mxmoe.evals.endpoint.address import read_address
from mxmoe.evals.endpoint.api_key import ApiKey
from mxmoe.evals.endpoint.asked import Asked
from mxmoe.evals.endpoint.asked import Sampling
from mxmoe.evals.endpoint.asking import Asker
from mxmoe.evals.endpoint.asking import Endpoint
from mxmoe.evals.endpoint.attempts import read_attempts
from mxmoe.evals.endpoint.limits import Limits
from mxmoe.evals.endpoint.task import load_endpoint_task
from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.rule import Rule
from mxmoe.evals.grade_school.frozen import load_test_problems
from mxmoe.evals.grade_school.tokenizer import load as load_tokenizer

MODEL = "served"


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the behaviour of its server."""

    protocol_version = "HTTP/1.1"
    server: FakeServer

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        body = json.loads(self.rfile.read(length))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.headers.append(dict(self.headers))
        self.server.behaviour(self, body)

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests.append({"GET": self.path})
            self.server.headers.append(dict(self.headers))
        self.send(404, b"")

    def send(self, status: int, body: bytes, **headers: str) -> None:
        """A whole reply."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, found: object, status: int = 200) -> None:
        self.send(status, json.dumps(found).encode())

    def log_message(self, *_arguments: Any) -> None:
        pass


Behaviour = Callable[[Handler, Mapping[str, Any]], None]


class FakeServer(ThreadingHTTPServer):
    """`behaviour` answers a request; the default answers all correctly."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.behaviour: Behaviour = lambda handler, body: handler.send_json(
            self.right(body)
        )
        self._ids = count()
        self._gold = {
            problem.prompt: (number, problem.completion)
            for number, problem in enumerate(load_test_problems())
        }
        self._tokenizer = load_tokenizer()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def question(self, body: Mapping[str, Any]) -> int:
        """Which question a request asks."""
        return self._gold[prompt_of(body)][0]

    @property
    def questions(self) -> list[int]:
        """Those of all requests so far."""
        with self.lock:
            return [self.question(body) for body in self.requests]

    def right(
        self, body: Mapping[str, Any], text: str | None = None, **changes: Any
    ) -> dict[str, Any]:
        """The reply with the right answer, or with `text`."""
        number, gold = self._gold[prompt_of(body)]
        said = gold if text is None else text
        tokens = len(self._tokenizer.encode(said).ids)
        cut = tokens >= body["max_tokens"]
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "length" if cut else "stop",
        }
        if "messages" in body:
            choice["message"] = {"role": "assistant", "content": said}
        else:
            choice["text"] = said
        return {
            "id": f"reply-{next(self._ids)}",
            "model": body["model"],
            "choices": [choice],
            "usage": {
                "prompt_tokens": load_endpoint_task("grade_school").tokens[number],  # type: ignore[index]
                "completion_tokens": min(tokens, body["max_tokens"]),
            },
            **changes,
        }

    def handle_error(self, *_arguments: Any) -> None:
        pass  # a client that went away


def prompt_of(body: Mapping[str, Any]) -> str:
    if "messages" in body:
        return str(body["messages"][0]["content"])
    return str(body["prompt"])


@pytest.fixture
def server() -> Iterator[FakeServer]:
    yield from _running()


@pytest.fixture
def other_server() -> Iterator[FakeServer]:
    yield from _running()


@pytest.fixture
def key() -> str:
    return "sk-secret-0123456789"


@pytest.fixture
def endpoint_of(server: FakeServer, key: str) -> Callable[..., Endpoint]:
    """Of the running server, impatient, with what a test changes."""
    asked = Asked(
        api=Api.COMPLETIONS,
        model=MODEL,
        sampling=Sampling(temperature=0.0, output_tokens=160),
    )
    endpoint = Endpoint(
        address=read_address(server.url),
        key=ApiKey(key),
        asked=asked,
        limits=Limits(
            connect=1, request=2, attempts=3, first_wait=0.01, longest_wait=2
        ),
        concurrency=4,
    )
    return partial(replace, endpoint)


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., list[AnswerLine]]:
    """Questions of grade_school, the first if none are named; the run is `tmp_path`."""

    def answered(
        endpoint: Endpoint, questions: Sequence[int] = (0,)
    ) -> list[AnswerLine]:
        task = load_endpoint_task("grade_school")
        return list(Asker(endpoint, task, tmp_path)(questions))

    return answered


@pytest.fixture
def outcomes(tmp_path: Path) -> Callable[[], list[str]]:
    """Of all attempts so far."""
    return lambda: [attempt.outcome for attempt in read_attempts(tmp_path)]


@pytest.fixture
def quick_rule(monkeypatch: pytest.MonkeyPatch) -> Rule:
    """A rule that few answers decide; what is asked stays the same."""
    rule = Rule(1319, 500)  # decided by 10 right answers, or by 13 of 14
    monkeypatch.setattr("mxmoe.evals.gate.rule.ReferenceTest.rule", lambda self: rule)
    return rule


def _running() -> Iterator[FakeServer]:
    with FakeServer() as server:
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        thread.start()
        yield server
        server.shutdown()
        thread.join()
