"""Latency comes from the server's own counts, and only for valid content."""

from __future__ import annotations

import asyncio
import csv
import json
import statistics
import threading
import time
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mxmoe.conformance.commands.main import main
from mxmoe.conformance.rundir import open_run
from mxmoe.evals.endpoint.address import Api
from mxmoe.evals.endpoint.calibrate import WORDS
from mxmoe.evals.endpoint.calibrate import prompt_of
from mxmoe.evals.endpoint.calibrate import words_of_length
from mxmoe.evals.endpoint.events import Events
from mxmoe.evals.endpoint.latency import latency_of
from mxmoe.evals.endpoint.serve_bench import Wanted
from mxmoe.evals.endpoint.streamed import Streamed
from mxmoe.evals.gate.ended import end
from mxmoe.evals.gate.reference import load_reference
from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.reference.errors import BadInput

# Tokens of the fake server's template, and seconds before and between tokens.
TEMPLATE, FIRST, BETWEEN = 7, 0.02, 0.002


class Engine:
    """The behaviour of a server that streams `osl` words, one a chunk."""

    def __init__(self, **changes: Any) -> None:
        self.unknown: tuple[str, ...] = ()
        self.words: Callable[[int], list[str]] = lambda n: [
            f" {WORDS[i % len(WORDS)]}" for i in range(n)
        ]
        self.at_once = 1
        self.usage: Callable[[dict[str, int]], Any] = lambda usage: usage
        self.model: str | None = None
        self.status = 200
        self.cut = False
        self.__dict__ |= changes

    def __call__(self, handler: Any, body: Mapping[str, Any]) -> None:
        unknown = sorted(set(self.unknown) & set(body))
        if unknown or (self.status != 200 and body.get("stream")):
            return handler.send(422 if unknown else self.status, str(unknown).encode())
        prompt = body.get("prompt") or body["messages"][0]["content"]
        count = body["max_tokens"]
        usage = {
            "prompt_tokens": TEMPLATE + sum(1 + (len(w) > 5) for w in prompt.split()),
            "completion_tokens": count,
        }
        if not body.get("stream"):
            return handler.send_json({"usage": usage})
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        self.say(handler, {"choices": [{"delta": {"role": "assistant"}}]})
        time.sleep(FIRST)
        words = self.words(count)
        for start in range(0, len(words), self.at_once):
            self.say(handler, *map(piece, words[start : start + self.at_once]))
            time.sleep(BETWEEN * self.at_once)
        if self.cut:
            return None
        end = {"delta": {}, "text": "", "finish_reason": "length"}
        self.say(handler, {"choices": [end], "model": self.model or body["model"]})
        self.say(handler, {"choices": [], "usage": self.usage(usage)})
        handler.wfile.write(b"data: [DONE]\r\n\r\n")
        return None

    def say(self, handler: Any, *found: object) -> None:
        events = [f"data: {json.dumps(event)}\n\n" for event in found]
        handler.wfile.write("".join(events).encode())


def piece(word: str) -> dict[str, Any]:
    said = {"text": word, "delta": {"content": word}, "finish_reason": None}
    return {"choices": [said]}


def bench(url: str, run: Path, *more: str) -> int:
    lengths = ("--isl", "60", "--osl", "24", "--requests", "3")
    quick = ("--model", "served", *lengths, "--json")
    with pytest.raises(SystemExit) as ended:
        main(["serve-bench", url, *quick, "--run-dir", str(run), *more])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_figures_are_those_of_the_server(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], api: str
) -> None:
    server.behaviour = Engine()
    run = tmp_path / "run"
    assert bench(server.url, run, "--api", api) == 0
    said = capsys.readouterr().out
    facts = json.loads(said.splitlines()[-1])
    latency = facts["latency"]
    itl, ttft = latency["itl_ms"], latency["ttft_ms"]
    # A busy machine sleeps longer than it was told.
    assert 1e3 * BETWEEN <= itl["p50"] <= 1e4 * BETWEEN
    assert 1e3 * FIRST <= ttft["p50"] <= 1e4 * FIRST
    assert itl["p50"] <= itl["p99"]
    rate = latency["tokens_per_s_user"]
    assert rate["p99"] == pytest.approx(1e3 / itl["p99"], rel=0.02)
    assert "ITL, ms" in said
    assert "no gate was run" in said
    with (run / "bench.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["prompt_tokens"] for row in rows] == ["60"] * 3
    assert [row["completion_tokens"] for row in rows] == ["24"] * 3
    median = statistics.median(float(row["itl_ms"]) for row in rows)
    assert median == pytest.approx(itl["p50"], abs=1e-4)
    assert json.loads((run / "run.json").read_bytes())["latency"] == latency


def test_timed_prompts_differ_and_the_warm_up_is_not_timed(
    server: Any, tmp_path: Path
) -> None:
    server.behaviour = Engine()
    assert bench(server.url, tmp_path / "run", "--warmup", "2") == 0
    timed = [body for body in server.requests if body.get("stream")]
    assert len(timed) == 5
    assert len({body["messages"][0]["content"] for body in timed}) == 5
    assert all(body["ignore_eos"] and body["min_tokens"] == 24 for body in timed)
    assert all(body["stream_options"] == {"include_usage": True} for body in timed)


REFUSED = [
    ("short", {"usage": lambda u: {**u, "completion_tokens": 23}}, "3 of 3 answers ha"),
    ("prompt", {"usage": lambda u: {**u, "prompt_tokens": 59}}, "3 of 3 prompts have"),
    ("no usage", {"usage": lambda u: None}, "expected usage with both token counts"),
    ("repeats", {"words": lambda n: ["!"] * n}, "3 of 3 answers repeat one word"),
    ("silent", {"words": lambda n: []}, "expected text, found none"),
    ("pieces", {"words": lambda n: list(WORDS[: 2 * n])}, "3 of 3 answers came in"),
    ("buffered", {"at_once": 24}, "answers are not streamed"),
    ("503", {"status": 503}, "HTTP 503"),
    ("404", {"status": 404}, "HTTP 404"),
    ("cut", {"cut": True}, "the stream ended before the answer did"),
    ("model", {"model": "gpt-4"}, "expected model 'served', found 'gpt-4'"),
]


@pytest.mark.parametrize(
    ("changes", "said"), [pytest.param(*rest, id=name) for name, *rest in REFUSED]
)
def test_invalid_content_has_no_latency(
    server: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    said: str,
) -> None:
    server.behaviour = Engine(**changes)
    run = tmp_path / "run"
    assert bench(server.url, run) == 3
    found = capsys.readouterr().out
    assert f"refused: {said}" in found
    assert "latency" not in json.loads(found.splitlines()[-1])
    assert "ITL" not in found
    assert not (run / "bench.csv").exists()
    assert said in json.loads((run / "run.json").read_bytes())["refused"][0]


def test_a_server_that_cannot_be_forced_is_measured_and_said(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.behaviour = Engine(unknown=("ignore_eos",))
    assert bench(server.url, tmp_path / "run", "--extra", '{"top_k": 1}') == 0
    assert "lengths are the model's own" in capsys.readouterr().out
    assert "min_tokens" not in server.requests[-1]
    assert server.requests[-1]["top_k"] == 1


def gate_run(folder: Path, url: str, verdict: str) -> Path:
    """A gate's run, sealed as the gate does it."""
    writer = open_run(folder)
    writer.describe(
        command="gate",
        options={"endpoint": f"{url}/v1", "model": "served"},
        protocol=asdict(load_reference("grade_school").protocol),
        rule=asdict(load_reference("grade_school").rule),
    )
    end(writer, Conclusion(GateVerdict(verdict), ("as if",)))
    return folder


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("fail", 3)])
def test_a_server_that_failed_its_gate_has_no_latency(
    server: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    verdict: str,
    code: int,
) -> None:
    server.behaviour = Engine()
    gate = gate_run(tmp_path / "gate", server.url, verdict)
    assert bench(server.url, tmp_path / "run", "--gate", str(gate)) == code
    said = "the gate passed:" if code == 0 else "refused: the gate of this server ended"
    assert said in capsys.readouterr().out
    assert bool(server.requests) is (code == 0)


def test_a_verdict_that_was_edited_is_refused(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = gate_run(tmp_path / "gate", server.url, "fail")
    facts = (gate / "run.json").read_text("utf-8")
    (gate / "run.json").write_text(facts.replace('"fail"', '"pass"'), encoding="utf-8")
    assert bench(server.url, tmp_path / "run", "--gate", str(gate)) == 2
    assert "found it changed" in capsys.readouterr().err


def test_the_gate_of_another_server_is_refused(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = gate_run(tmp_path / "gate", "http://127.0.0.1:1", "pass")
    assert bench(server.url, tmp_path / "run", "--gate", str(gate)) == 2
    assert "expected a gate of served at" in capsys.readouterr().err
    assert server.requests == []


class Counting(Engine):
    """An engine that knows how many streams it had open at once."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.most, self.lock = 0, 0, threading.Lock()

    def __call__(self, handler: Any, body: Mapping[str, Any]) -> None:
        with self.lock:
            self.open += 1
            self.most = max(self.most, self.open)
        try:
            super().__call__(handler, body)
        finally:
            with self.lock:
                self.open -= 1


def test_users_ask_at_the_same_time(server: Any, tmp_path: Path) -> None:
    server.behaviour = Counting()
    run = tmp_path / "run"
    assert bench(server.url, run, "--concurrency", "3") == 0
    assert server.behaviour.most == 3
    latency = json.loads((run / "run.json").read_bytes())["latency"]
    assert latency["tokens_per_s"] > latency["tokens_per_s_user"]["mean"]


@pytest.mark.parametrize("tokens", [20, 60, 61, 62, 63, 200, 1000])
@pytest.mark.parametrize("longest_word", [4, 6, 30])
def test_a_prompt_is_fitted_to_any_length(tokens: int, longest_word: int) -> None:
    def count(prompt: str) -> int:
        return 5 + sum(1 + (len(w) > longest_word) for w in prompt.split())

    words = run_fitting(tokens, count)
    assert count(prompt_of(words, seed=3)) == tokens


def run_fitting(tokens: int, count: Callable[[str], int]) -> list[str]:
    async def ask(prompt: str) -> int:
        return count(prompt)

    return asyncio.run(words_of_length(tokens, ask))


def test_a_length_that_no_prompt_has_is_refused() -> None:
    with pytest.raises(BadInput, match="--isl: expected a prompt that"):
        run_fitting(61, lambda prompt: 2 * len(prompt.split()))
    with pytest.raises(BadInput, match="--isl"):
        run_fitting(5, lambda prompt: len(prompt.split()))


def test_the_seeds_figures_follow_from_its_token_counts() -> None:
    """8.53 ms between tokens are 117.2 tokens/s/user; 8.52 ms are 117.4."""
    answer = Streamed(
        model="m",
        text="",
        finish_reason="length",
        prompt_tokens=1000,
        completion_tokens=1000,
        pieces=1000,
        arrivals=1000,
        first=0.1,
        last=0.1 + 999 * 8.52e-3,
    )
    found = latency_of([answer] * 20, seconds=200.0)
    assert found.itl_ms.p50 == pytest.approx(8.52)
    assert found.ttft_ms.p99 == pytest.approx(100)
    assert round(found.tokens_per_s_user.p50, 1) == 117.4
    assert found.tokens_per_s == pytest.approx(100)


def test_events_come_whole_from_any_pieces() -> None:
    sent = b": hello\r\ndata: {1}\r\n\r\nevent: x\ndata:{2}\n\ndata: [DONE]\n\n"
    for size in range(1, len(sent)):
        events = Events()
        parts = [sent[at : at + size] for at in range(0, len(sent), size)]
        found = [data for part in parts for data in events.feed(part)]
        assert found == [b"{1}", b"{2}", b"[DONE]"]


@pytest.mark.parametrize(
    "extra", [{"max_tokens": 5}, {"stream": False}, {"model": "x"}]
)
def test_extra_fields_do_not_change_what_is_measured(extra: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="--extra: expected other fields"):
        Wanted(api=Api.CHAT, model="m", extra=extra)
