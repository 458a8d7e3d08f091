"""Addresses, keys, waits and replies from outside, refused unless they are plain."""

from __future__ import annotations

import json
from datetime import UTC
from datetime import datetime
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxmoe.evals.endpoint.address import Api
from mxmoe.evals.endpoint.address import read_address
from mxmoe.evals.endpoint.api_key import key_from_environment
from mxmoe.evals.endpoint.backoff import read_retry_after
from mxmoe.evals.endpoint.backoff import wait_before
from mxmoe.evals.endpoint.limits import Limits
from mxmoe.evals.endpoint.reply import read_reply
from mxmoe.evals.endpoint.sent import same_model
from mxmoe.evals.endpoint.task import reference_at_endpoint
from mxmoe.evals.endpoint.trouble import RequestFailed
from mxmoe.evals.endpoint.trouble import Trouble
from mxmoe.reference.errors import BadInput

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("https://engine.example/v1/", "https://engine.example/v1"),
        ("http://[::1]:8000/openai/v1", "http://[::1]:8000/openai/v1"),
        ("http://a/v1/chat/completions", "http://a/v1"),
        ("http://a/v1/completions", "http://a/v1"),
    ],
)
def test_an_address_is_read(text: str, base: str) -> None:
    assert read_address(text).base == base
    assert read_address(text).url(Api.CHAT) == f"{base}/chat/completions"


@pytest.mark.parametrize(
    "text",
    [
        *("", "127.0.0.1:8000", "ftp://a/v1", "file:///etc/passwd", "http://"),
        *("http://a:0/v1", "http://a:99999", "http://a:b/", "http://a/?key=1"),
        *("http://a/#x", "http://a b/", "http://a\\b/", "http://a\n/", "http://ä/"),
        *("http://user:hidden@a/v1", "http://hidden@a", "http://[::1/v1"),
    ],
)
def test_another_address_is_refused_and_no_password_shown(text: str) -> None:
    with pytest.raises(BadInput, match="endpoint: expected an address") as found:
        read_address(text)
    assert "hidden" not in str(found.value)


@pytest.mark.parametrize(
    "value", ["", "short", "with space in it", "line\nbreak-12345"]
)
def test_what_is_no_key_is_refused_and_not_shown(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_KEY", value)
    with pytest.raises(BadInput, match="ENGINE_KEY: expected a key") as found:
        key_from_environment("ENGINE_KEY")
    assert not value or value not in str(found.value)


def test_no_key_is_sent_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    assert key_from_environment(None).headers() == {}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("12", 12.0),
        ("-3", 0.0),
        ("Fri, 02 Jan 2026 03:04:35 GMT", 30.0),
        ("Fri, 02 Jan 2026 03:04:35 -0000", 30.0),
        ("Thu, 01 Jan 2026 00:00:00 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(
    text: str | None, seconds: float | None
) -> None:
    assert read_retry_after(text, NOW) == seconds


@given(st.integers(2, 10), st.none() | st.floats(0, 200), st.integers())
def test_a_wait_is_jittered_and_as_long_as_the_server_asks(
    attempt: int, asked: float | None, seed: int
) -> None:
    limits = Limits(first_wait=1, longest_wait=60, attempts=10)
    wait = wait_before(attempt, asked, limits, Random(seed))
    most = min(60.0, 2.0 ** (attempt - 2))
    if asked is not None and asked > 60:
        assert wait is None
    else:
        assert wait is not None
        assert max(most / 2, asked or 0) <= wait <= max(most, asked or 0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_refused_in_one_way(body: bytes) -> None:
    for api in Api:
        with pytest.raises(RequestFailed) as found:
            read_reply(body, api)
        assert found.value.trouble in (Trouble.BROKEN, Trouble.UNUSABLE)


def outcome_of(body: bytes) -> str:
    try:
        reply = read_reply(body, Api.COMPLETIONS)
    except RequestFailed as failed:
        return str(failed.trouble)
    assert reply.text.encode() is not None
    return reply.finish_reason


@given(
    st.sampled_from(("choices", "usage", "id", "model", "finish_reason", "text")),
    json_values,
)
def test_any_field_may_be_anything(name: str, value: Any) -> None:
    right: dict[str, Any] = {
        "id": "r",
        "model": "m",
        "choices": [{"finish_reason": "stop", "text": "#### 1"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    inside = name in ("finish_reason", "text")
    (right["choices"][0] if inside else right)[name] = value
    assert outcome_of(json.dumps(right).encode()) in (
        *("stop", "length", "broken", "unusable"),
    )


def test_half_a_character_is_replaced() -> None:
    body = (
        b'{"choices": [{"finish_reason": "stop", "text": "a\\ud800b"}],'
        b'"usage": {"prompt_tokens": 3, "completion_tokens": 2}}'
    )
    assert read_reply(body, Api.COMPLETIONS).text == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize(
    ("asked", "found", "same"),
    [
        ("openai/gpt-oss-20b", "openai/gpt-oss-20b", True),
        ("/models/mine", "/models/mine@main", True),
        ("/models/mine/", "mine", True),
        ("gpt-oss-20b", "gpt-oss-120b", False),
        ("gpt-oss", "gpt-oss-20b", False),
        ("a", "", False),
    ],
)
def test_the_model_that_answers_is_the_one_asked(
    asked: str, found: str, same: bool
) -> None:
    assert same_model(asked, found) is same


def test_a_task_with_several_references_needs_a_name() -> None:
    with pytest.raises(BadInput, match="--reference: expected one of gsm8k-"):
        reference_at_endpoint("gsm8k", None, None)
    with pytest.raises(BadInput, match="--reference: expected one of grade_school"):
        reference_at_endpoint("grade_school", "gsm8k-gpt-oss-20b", None)
    found = reference_at_endpoint("gsm8k", "gsm8k-gpt-oss-120b", None)
    assert found.rule.least_correct == 1149
    fixed = reference_at_endpoint("grade_school", None, 50.0)
    assert fixed.rule.least_correct == 660
    assert fixed.baseline.tokens is None
