"""A server that speaks OpenAI's API and fails as it is told, on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from itertools import count
from typing import Any

import pytest

pytest.importorskip("httpx", reason="needs the extra 'endpoint'")

from mxmoe.evals.endpoint.task import load_endpoint_task
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


def _running() -> Iterator[FakeServer]:
    with FakeServer() as server:
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        thread.start()
        yield server
        server.shutdown()
        thread.join()
