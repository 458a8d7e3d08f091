"""The gate at an endpoint: answers decide, not their order or their mishaps."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mxmoe.evals.endpoint.address import Api
from mxmoe.evals.endpoint.attempts import FILE as ATTEMPTS
from mxmoe.evals.endpoint.attempts import read_attempts
from mxmoe.evals.endpoint.gate_run import Options
from mxmoe.evals.endpoint.gate_run import run_endpoint_gate
from mxmoe.evals.endpoint.limits import Limits
from mxmoe.evals.gate.answer_lines import FILE as ANSWERS
from mxmoe.evals.gate.answer_lines import read_answers
from mxmoe.evals.gate.evidence import Decision
from mxmoe.evals.gate.evidence import first_stop
from mxmoe.evals.gate.order import registered_order
from mxmoe.evals.gate.rule import Rule
from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.reference.errors import BadInput

ORDER = registered_order(1319, seed=0)
LIMITS = Limits(connect=1, request=5, attempts=3, first_wait=0.01)


def options_of(server: Any, **changes: Any) -> Options:
    options = Options(endpoint=server.url, model="served", limits=LIMITS, concurrency=8)
    return replace(options, **changes)


def gate(server: Any, run: Path, **changes: Any) -> Conclusion:
    return run_endpoint_gate(options_of(server, **changes), run)


def wrong_for(
    wrong: Callable[[int], bool], *, seconds: Callable[[int], float] = lambda q: 0
) -> Callable[[Any, Any], None]:
    """Answers with the wrong number where `wrong` says so, after `seconds`."""

    def behave(handler: Any, body: Any) -> None:
        question = handler.server.question(body)
        time.sleep(seconds(question))
        found = handler.server.right(body)
        if wrong(question):
            choice = found["choices"][0]
            choice["text"] = choice["text"].split("####")[0] + "#### 99999"
        handler.send_json(found)

    return behave


def test_right_answers_pass_as_soon_as_they_suffice(
    server: Any, tmp_path: Path
) -> None:
    found = gate(server, tmp_path / "run")
    assert found.verdict is GateVerdict.PASS
    assert found.reasons == (
        "231 of 231 correct; 1274 of 1319 pass, and going on changes the verdict in "
        "1 of 1000 at most",
    )
    answers = read_answers(tmp_path / "run")
    assert set(ORDER[:231]) <= set(answers)
    facts = json.loads((tmp_path / "run" / "run.json").read_bytes())
    assert facts["unverified"][0] == "that the kernel under test ran"
    asked = server.questions
    assert len(asked) == len(set(asked))
    # Those in flight, and the question that is sent as one comes.
    assert len(asked) <= 231 + 2 * 8


def test_the_first_question_is_sent_alone(server: Any, tmp_path: Path) -> None:
    server.behaviour = lambda handler, body: handler.send(404, b"no such model")
    found = gate(server, tmp_path / "run")
    assert found.verdict is GateVerdict.INVALID
    assert "HTTP 404: no such model" in found.reasons[0]
    assert server.questions == [ORDER[0]]


def test_wrong_answers_fail(server: Any, tmp_path: Path) -> None:
    server.behaviour = wrong_for(lambda question: True)
    found = gate(server, tmp_path / "run")
    assert found.verdict is GateVerdict.FAIL
    assert found.reasons[1].startswith("broken numerics")
    assert len(read_answers(tmp_path / "run")) <= 10


def test_quick_answers_do_not_count_before_slow_ones(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right answers come first; counted as they come, they would pass."""
    rule = Rule(1319, 1000)
    wrong = set(ORDER[:60:2])
    server.behaviour = wrong_for(
        wrong.__contains__, seconds=lambda q: 0.15 if q in wrong else 0
    )
    monkeypatch.setattr("mxmoe.evals.gate.rule.ReferenceTest.rule", lambda self: rule)
    found = gate(server, tmp_path / "run", concurrency=32)
    expected = first_stop(rule, [q not in wrong for q in ORDER])
    assert expected.decision is Decision.FAIL
    assert found.verdict is GateVerdict.FAIL
    said = f"{expected.correct} of {expected.answered} correct"
    assert found.reasons[0].startswith(said)


@pytest.mark.parametrize("seed", range(4))
def test_the_verdict_is_that_of_the_registered_order(
    server: Any, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    rule = Rule(1319, 600)
    monkeypatch.setattr("mxmoe.evals.gate.rule.ReferenceTest.rule", lambda self: rule)
    wrong = {q for q in ORDER if random.random() < (0.9, 0.7, 0.2, 0.1)[seed]}
    server.behaviour = wrong_for(
        wrong.__contains__, seconds=lambda q: random.random() * 0.02
    )
    found = gate(server, tmp_path / "run")
    expected = first_stop(rule, [q not in wrong for q in ORDER])
    assert found.verdict == expected.decision
    said = f"{expected.correct} of {expected.answered} correct"
    assert found.reasons[0].startswith(said)


def test_no_answer_is_no_score_and_the_run_goes_on(
    server: Any, tmp_path: Path, quick_rule: None
) -> None:
    right = server.behaviour

    def breaks_down(handler: Any, body: Any) -> None:
        if len(server.requests) > 4:
            return handler.send(503, b"")
        return right(handler, body)

    server.behaviour = breaks_down
    found = gate(server, tmp_path / "run")
    assert found.verdict is GateVerdict.INVALID
    assert "has no answer in 3 attempts: HTTP 503: no body" in found.reasons[0]
    before = read_answers(tmp_path / "run")
    attempts = len(read_attempts(tmp_path / "run"))
    server.behaviour = right
    found = gate(server, tmp_path / "run", concurrency=2)
    assert found.verdict is GateVerdict.PASS
    assert found.reasons[1].endswith("refused")
    asked = {a.question for a in read_attempts(tmp_path / "run")[attempts:]}
    assert asked
    assert not asked & set(before)


def test_an_answer_without_content_is_not_asked_again(
    server: Any, tmp_path: Path
) -> None:
    def empty(handler: Any, body: Any) -> None:
        found = handler.server.right(body)
        found["choices"][0]["text"] = None
        handler.send_json(found)

    right, server.behaviour = server.behaviour, empty
    found = gate(server, tmp_path / "run")
    assert found.verdict is GateVerdict.INVALID
    assert "expected text, found None (stop)" in found.reasons[0]
    server.behaviour = right
    assert gate(server, tmp_path / "run") == found
    # As if killed before the verdict was written.
    facts = json.loads((tmp_path / "run" / "run.json").read_bytes())
    del facts["verdict"], facts["reasons"], facts["goes_on"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    assert gate(server, tmp_path / "run").verdict is GateVerdict.INVALID
    assert len(server.requests) == 1


def test_reasoning_without_an_answer_is_no_score(server: Any, tmp_path: Path) -> None:
    def reasons(handler: Any, body: Any) -> None:
        found = handler.server.right(body, "7 " * 200)
        found["choices"][0]["text"] = None
        handler.send_json(found)

    server.behaviour = reasons
    found = gate(server, tmp_path / "run")
    assert found.verdict is GateVerdict.INVALID
    assert "answers have no content, only reasoning" in found.reasons[0]


def test_right_answers_that_go_on_and_on_do_not_pass(
    server: Any, tmp_path: Path, quick_rule: None
) -> None:
    def babble(handler: Any, body: Any) -> None:
        gold = handler.server.right(body)["choices"][0]["text"]
        handler.send_json(handler.server.right(body, gold + " the" * 200))

    server.behaviour = babble
    found = gate(server, tmp_path / "run")
    assert found.verdict is GateVerdict.INVALID
    assert [reason.split(" answers ")[-1] for reason in found.reasons[:2]] == [
        "were cut at the output limit",
        "repeat one word",
    ]


def test_another_api_is_another_protocol(server: Any, tmp_path: Path) -> None:
    found = gate(server, tmp_path / "run", api=Api.CHAT)
    assert found.verdict is GateVerdict.INVALID
    assert found.reasons == (
        "other protocol: chat_template: expected False, found True",
    )
    assert server.requests == []


def test_a_run_that_is_out_of_time_is_inconclusive(server: Any, tmp_path: Path) -> None:
    server.behaviour = wrong_for(lambda q: False, seconds=lambda q: 0.1)
    found = gate(server, tmp_path / "run", run_seconds=0.35)
    assert found.verdict is GateVerdict.INCONCLUSIVE
    assert 0 < len(read_answers(tmp_path / "run")) < 50
    server.behaviour = wrong_for(lambda q: False)
    found = gate(server, tmp_path / "run")
    assert found.verdict is GateVerdict.PASS


def finished_run(server: Any, folder: Path) -> Path:
    """A run of 14 answers, the first wrong; some came at a second attempt."""

    def behave(handler: Any, body: Any) -> None:
        question = server.question(body)
        if question % 3 == 0 and server.questions.count(question) == 1:
            return handler.send(429, b"", Retry_After="0")
        return wrong_for(lambda q: q == ORDER[0])(handler, body)

    server.behaviour = behave
    assert gate(server, folder).verdict is GateVerdict.PASS
    server.requests.clear()
    server.behaviour = wrong_for(lambda q: q == ORDER[0])
    return folder


def _reopened(run: Path, copy: Path) -> None:
    """A copy of a run directory, as if killed before the verdict was written."""
    shutil.copytree(run, copy)
    facts = json.loads((copy / "run.json").read_bytes())
    del facts["verdict"], facts["reasons"], facts["goes_on"]
    (copy / "run.json").write_text(json.dumps(facts), encoding="utf-8")


def test_killed_anywhere_no_answer_is_lost_or_doubled(
    server: Any, tmp_path: Path, quick_rule: None
) -> None:
    """Attempts are written before answers: what a kill can leave are prefixes."""
    run = finished_run(server, tmp_path / "run")
    written = {name: (run / name).read_bytes() for name in (ATTEMPTS, ANSWERS)}
    random = Random(2)
    for number in range(20):
        copy = tmp_path / f"copy{number}"
        _reopened(run, copy)
        end = random.randrange(len(written[ATTEMPTS]) + 1)
        (copy / ATTEMPTS).write_bytes(written[ATTEMPTS][:end])
        kept = {a.question for a in read_attempts(copy) if a.reply}
        whole = [
            line
            for line in written[ANSWERS].splitlines(keepends=True)
            if json.loads(line)["question"] in kept
        ]
        answers = b"".join(whole)
        (copy / ANSWERS).write_bytes(answers[: random.randrange(len(answers) + 1)])
        before = len(read_attempts(copy))
        assert gate(server, copy).verdict is GateVerdict.PASS
        asked = [attempt.question for attempt in read_attempts(copy)[before:]]
        assert not set(asked) & kept
        assert len(asked) == len(set(asked))
        answered = [a.question for a in read_attempts(copy) if a.reply]
        assert len(answered) == len(set(answered))
        assert set(ORDER[:14]) <= set(read_answers(copy)) <= set(answered)


def test_a_damaged_run_is_refused_or_has_the_same_verdict(
    server: Any, tmp_path: Path, quick_rule: None
) -> None:
    run = finished_run(server, tmp_path / "run")
    random = Random(3)
    refused = 0
    for number in range(40):
        copy = tmp_path / f"copy{number}"
        _reopened(run, copy)
        path = copy / random.choice((ATTEMPTS, ANSWERS))
        damaged = bytearray(path.read_bytes())
        place = random.randrange(len(damaged) - 1)
        damaged[place] ^= 1 << random.randrange(7)
        path.write_bytes(damaged)
        try:
            found = gate(server, copy)
        except BadInput:
            refused += 1
        else:
            assert found.verdict is GateVerdict.PASS
            assert found.reasons[0].startswith("13 of 14 correct")
    assert refused > 20


def test_a_run_of_another_model_is_not_gone_on_with(
    server: Any, tmp_path: Path, quick_rule: None
) -> None:
    gate(server, tmp_path / "run")
    with pytest.raises(BadInput, match="a run of these options"):
        gate(server, tmp_path / "run", model="other")
