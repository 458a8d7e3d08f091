"""Does a reply answer what was sent? All of the protocol that an endpoint shows."""

from __future__ import annotations

from mxmoe.evals.endpoint.asked import Asked
from mxmoe.evals.endpoint.reply import LENGTH
from mxmoe.evals.endpoint.reply import Reply
from mxmoe.evals.endpoint.reply import unusable


def check_reply(reply: Reply, asked: Asked, *, prompt_tokens: int | None) -> None:
    """Raises `RequestFailed` (unusable) for a reply under another protocol.

    Another model than the one asked; more tokens than the limit that was sent, or an
    answer cut before it, so that the server has a limit of its own; and, where
    `prompt_tokens` is known, a prompt to which something was added.
    """
    if reply.model is not None and not same_model(asked.model, reply.model):
        raise unusable(f"expected model {asked.model!r}, found {reply.model!r:.200}")
    limit, count = asked.sampling.output_tokens, reply.completion_tokens
    if count > limit:
        raise unusable(f"expected at most {limit} tokens, as asked, found {count}")
    if reply.finish_reason == LENGTH and count < limit:
        raise unusable(
            f"expected answers of up to {limit} tokens, found one cut at {count}: "
            "the server has another limit"
        )
    if prompt_tokens is not None and reply.prompt_tokens != prompt_tokens:
        raise unusable(
            f"expected a prompt of {prompt_tokens} tokens, found that the server "
            f"counts {reply.prompt_tokens}: it is not what was sent"
        )


def same_model(asked: str, found: str) -> bool:
    """Whether a server that was asked for `asked` may call it `found`.

    transformers adds "@" and a revision; a folder may be served under its last name.
    """
    name = found.rpartition("@")[0] if "@" in found else found
    return asked in (found, name) or asked.rstrip("/").rpartition("/")[2] == name
