"""An answer, read from the body of a reply; what is none is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mxmoe.evals.endpoint.address import Api
from mxmoe.evals.endpoint.trouble import RequestFailed
from mxmoe.evals.endpoint.trouble import Trouble

STOP, LENGTH = "stop", "length"
# vLLM and SGLang say reasoning_content, newer ones reasoning.
_REASONING = ("reasoning_content", "reasoning")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One whole answer.

    reply_id, model : as the server names them, or None. text : of the answer, "" where
    the limit came before it. reasoning : what a chat model wrote before.
    finish_reason : "stop" or "length". prompt_tokens, completion_tokens : the server's
    own counts; most count the end token.
    """

    reply_id: str | None
    model: str | None
    text: str
    reasoning: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


def read_reply(body: bytes, api: Api) -> Reply:
    """The reply in a body; raises `RequestFailed`.

    BROKEN for what is no JSON: half a body, or a page of a proxy. UNUSABLE for JSON
    without one answer, its end and its token counts: the server answered, and asking
    again would be a retry.
    """
    found = read_object(body)
    choices = found.get("choices")
    if not isinstance(choices, list) or len(choices) != 1:
        count = len(choices) if isinstance(choices, list) else "none"
        raise unusable(f"expected one choice, found {count}")
    choice = _object(choices[0], "choice")
    finish = choice.get("finish_reason")
    if finish not in (STOP, LENGTH):
        raise unusable(f"expected finish_reason stop or length, found {finish!r:.80}")
    said = _object(choice.get("message"), "message") if api is Api.CHAT else choice
    text = said.get("content" if api is Api.CHAT else "text")
    if text is None and finish == LENGTH:
        text = ""  # the limit came while it reasoned
    if not isinstance(text, str):
        raise unusable(f"expected text, found {text!r:.80} ({finish})")
    prompt_tokens, completion_tokens = read_usage(found.get("usage"))
    return Reply(
        reply_id=_name(found.get("id")),
        model=_name(found.get("model")),
        text=_whole(text),
        reasoning=reasoning_of(said),
        finish_reason=finish,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
    )


def read_object(body: bytes | str) -> Mapping[str, Any]:
    """The JSON object in a body, without NaN and infinity."""
    try:
        found = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RequestFailed(
            Trouble.BROKEN,
            f"expected JSON, found {body[:60]!r} of {len(body)} characters",
        ) from None
    return _object(found, "object")


def read_usage(usage: object) -> tuple[int, int]:
    """(prompt tokens, completion tokens) as the server counts them."""
    counts = usage if isinstance(usage, dict) else {}
    found = counts.get("prompt_tokens"), counts.get("completion_tokens")
    if not all(type(count) is int and 0 <= count < 2**31 for count in found):
        raise unusable(f"expected usage with both token counts, found {usage!r:.120}")
    return int(found[0]), int(found[1])  # type: ignore[arg-type]


def reasoning_of(said: Mapping[str, Any]) -> str:
    """What a message or a piece of one says in its reasoning."""
    texts = [said[name] for name in _REASONING if isinstance(said.get(name), str)]
    return _whole(texts[0]) if texts else ""


def unusable(said: str) -> RequestFailed:
    """The failure of a reply that is no answer."""
    return RequestFailed(Trouble.UNUSABLE, said)


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise unusable(f"expected {what} as a JSON object, found {value!r:.80}")
    return value


def _name(value: object) -> str | None:
    return value[:500] if isinstance(value, str) else None


def _whole(text: str) -> str:
    # JSON can spell half a character, which no file or terminal takes.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _no_constant(name: str) -> None:
    raise ValueError(name)
