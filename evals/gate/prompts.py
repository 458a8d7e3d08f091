"""Conversations -> the text that a model completes."""

from __future__ import annotations

import hashlib
from typing import Any

from mxmoe.evals.gate.task import Task
from mxmoe.reference.errors import BadInput

# gpt-oss's template writes today's date into the system message. A prompt that is
# another one tomorrow cannot be compared; this is the day the model was published.
_DATE = "2025-08-05"
# A template's own macro hides transformers' function of this name.
_FROZEN = "{% macro strftime_now(format) %}" + _DATE + "{% endmacro %}"


def prompts_of(task: Task, tokenizer: Any) -> tuple[str, ...]:
    """By question; `BadInput` where a chat template is needed and none is there."""
    if not task.chat_template:
        return tuple(map(task.written, task.conversations))
    if not tokenizer.chat_template:
        raise BadInput(
            f"task {task.name}: expected a tokenizer with a chat template, found none"
        )
    options: dict[str, Any] = {}
    if task.reasoning_effort is not None:
        options["reasoning_effort"] = task.reasoning_effort
    try:
        template = _FROZEN + tokenizer.get_chat_template()
        return tuple(
            tokenizer.apply_chat_template(
                [turn._asdict() for turn in conversation],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
                **options,
            )
            for conversation in task.conversations
        )
    # A template is a program that came with the model; it raises what it likes.
    except Exception as error:
        raise BadInput(
            f"task {task.name}: expected a chat template that takes its messages, "
            f"found {type(error).__name__}: {error}"
        ) from error


def template_sha256(tokenizer: Any) -> str | None:
    """Of the chat template, or None where there is none."""
    found = tokenizer.chat_template
    return hashlib.sha256(str(found).encode()).hexdigest() if found else None
