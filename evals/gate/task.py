"""What a gate asks: the questions, how they are put, and how an answer is scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mxmoe.evals.gate.protocol import Protocol
from mxmoe.evals.gate.protocol import prompts_hash

ORDER_SEED = 0


class Turn(NamedTuple):
    """One message: role is "user", "assistant" or "system"."""

    role: str
    content: str


Conversation = tuple[Turn, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that is asked, and what decides the score besides model and kernel.

    conversations : by question; few-shots are earlier turns. Without `chat_template`
    each is one turn, whose content is completed as it stands. golds : what a perfect
    model would write after it. questions_sha256 : of questions and golds, whatever
    file they came from. extract : the answer in a text; is_correct : whether a text
    answers a question. harness : the program that makes prompts and scores, with its
    version where that decides.
    """

    name: str
    version: str
    conversations: tuple[Conversation, ...]
    golds: tuple[str, ...]
    questions_sha256: str
    few_shots: int
    chat_template: bool
    output_tokens: int
    stops: tuple[str, ...]
    extraction: str
    harness: str
    extract: Callable[[str], str]
    is_correct: Callable[[int, str], bool]
    reasoning_effort: str | None = None
    temperature: float = 0.0

    def protocol(self, model_sha256: str) -> Protocol:
        """The protocol of a run with these weights.

        A chat template is the model's, and gpt-oss's holds the date: what is hashed
        are the messages that go into it.
        """
        return Protocol(
            task=self.name,
            task_version=self.version,
            model_sha256=model_sha256,
            questions=len(self.conversations),
            prompts_sha256=prompts_hash(map(self.written, self.conversations)),
            order_seed=ORDER_SEED,
            few_shots=self.few_shots,
            chat_template=self.chat_template,
            reasoning_effort=self.reasoning_effort,
            temperature=self.temperature,
            output_tokens=self.output_tokens,
            stops=self.stops,
            extraction=self.extraction,
            harness=self.harness,
        )

    def written(self, conversation: Conversation) -> str:
        """The prompt, or the messages as JSON where a chat template follows."""
        if not self.chat_template:
            return "".join(turn.content for turn in conversation)
        turns = [turn._asdict() for turn in conversation]
        return json.dumps(turns, ensure_ascii=False)
