"""What is sent for a question: the request is the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mxmoe.evals.endpoint.address import Api
from mxmoe.evals.gate.task import Conversation


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn. stops : strings that end one."""

    temperature: float
    output_tokens: int
    stops: tuple[str, ...] = ()
    reasoning_effort: str | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A way to ask one server: its API, the model's name there, and the sampling."""

    api: Api
    model: str
    sampling: Sampling

    def body(self, conversation: Conversation) -> dict[str, Any]:
        """The request for a conversation; without a chat its text, to be completed."""
        turns = [turn._asdict() for turn in conversation]
        said: Mapping[str, Any] = {"messages": turns}
        if self.api is Api.COMPLETIONS:
            said = {"prompt": "".join(turn.content for turn in conversation)}
        optional = {
            "stop": list(self.sampling.stops),
            "reasoning_effort": self.sampling.reasoning_effort,
        }
        return {
            "model": self.model,
            **said,
            "temperature": self.sampling.temperature,
            "max_tokens": self.sampling.output_tokens,
            **{name: value for name, value in optional.items() if value},
        }
