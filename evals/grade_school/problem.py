"""A problem, and the prompt that a model completes."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One question with its worked answer, which ends in "#### N"."""

    question: str
    answer: str

    @property
    def prompt(self) -> str:
        """What the model is given; it goes on with a space and the answer."""
        return f"Question: {self.question}\nAnswer:"

    @property
    def completion(self) -> str:
        """What the model should write, up to the end-of-text token."""
        return f" {self.answer}"

    def json_line(self) -> str:
        """As a line of GSM8K's files: {"question": ..., "answer": ...}."""
        return json.dumps({"question": self.question, "answer": self.answer})
