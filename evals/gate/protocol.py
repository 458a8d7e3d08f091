"""What decides a score besides the kernel; two scores compare only under one protocol.

Prompt template, extraction rule or output limit move GSM8K by tens of points, a wrong
kernel by less: another protocol is no failure of the candidate, it is no comparison.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import fields
from typing import Any

from mxmoe.reference.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """All that a reference entry fixes.

    prompts_sha256 : `prompts_hash` of every prompt, few-shots and chat template
    included. order_seed : of the questions. stops : strings that end an answer.
    harness : the program that asks and extracts, with its version.
    """

    task: str
    task_version: str
    model_sha256: str
    questions: int
    prompts_sha256: str
    order_seed: int
    few_shots: int
    chat_template: bool
    reasoning_effort: str | None
    temperature: float
    output_tokens: int
    stops: tuple[str, ...]
    extraction: str
    harness: str

    def differences(self, other: Protocol) -> list[str]:
        """One line a field that differs: ``few_shots: expected 5, found 0``."""
        return [
            f"{field.name}: expected {mine!r}, found {theirs!r}"
            for field in fields(self)
            if (mine := getattr(self, field.name))
            != (theirs := getattr(other, field.name))
        ]

    def sha256(self) -> str:
        """What runs of this protocol are grouped by."""
        text = json.dumps(asdict(self), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def prompts_hash(prompts: Iterable[str]) -> str:
    """SHA-256 of prompts in order; no two lists run into each other."""
    found = hashlib.sha256()
    for prompt in prompts:
        text = prompt.encode()
        found.update(len(text).to_bytes(8, "little") + text)
    return found.hexdigest()


def prompt_hash(prompt: str) -> str:
    """SHA-256 of one prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def read_protocol(facts: Mapping[str, Any], where: str) -> Protocol:
    """A protocol from JSON; `BadInput` for missing or unknown fields."""
    names = {field.name for field in fields(Protocol)}
    missing, unknown = sorted(names - set(facts)), sorted(set(facts) - names)
    if missing or unknown:
        raise BadInput(
            f"{where}: expected the fields of a protocol, found "
            + _listed(missing, "none of") * bool(missing)
            + " and " * bool(missing and unknown)
            + _listed(unknown, "besides them") * bool(unknown)
        )
    return Protocol(**{**facts, "stops": tuple(facts["stops"])})


def _listed(names: Sequence[str], words: str) -> str:
    return f"{words} {', '.join(names)}"
