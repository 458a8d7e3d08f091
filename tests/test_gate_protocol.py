"""A run of another protocol is told from a worse score."""

from __future__ import annotations

import json
from dataclasses import asdict
from dataclasses import fields
from dataclasses import replace
from typing import Any

import pytest

from mxmoe.evals.gate.protocol import Protocol
from mxmoe.evals.gate.protocol import prompts_hash
from mxmoe.evals.gate.protocol import read_protocol
from mxmoe.reference.errors import BadInput

PROTOCOL = Protocol(
    task="grade_school",
    task_version="1",
    model_sha256="6bb3",
    questions=1319,
    prompts_sha256=prompts_hash(["a", "b"]),
    order_seed=0,
    few_shots=0,
    chat_template=False,
    reasoning_effort=None,
    temperature=0.0,
    output_tokens=160,
    stops=("</s>",),
    extraction="strict-match",
    harness="mxmoe 0.1.0",
)
OTHER: dict[str, Any] = {
    field.name: "other" if isinstance(getattr(PROTOCOL, field.name), str) else 7
    for field in fields(Protocol)
} | {"stops": (), "chat_template": True, "reasoning_effort": "low"}


def test_a_protocol_does_not_differ_from_itself() -> None:
    assert PROTOCOL.differences(PROTOCOL) == []


@pytest.mark.parametrize("name", OTHER)
def test_every_field_tells_protocols_apart(name: str) -> None:
    other = replace(PROTOCOL, **{name: OTHER[name]})
    [line] = PROTOCOL.differences(other)
    assert (
        line == f"{name}: expected {getattr(PROTOCOL, name)!r}, found {OTHER[name]!r}"
    )
    assert other.sha256() != PROTOCOL.sha256()


def test_a_protocol_survives_json() -> None:
    facts = json.loads(json.dumps(asdict(PROTOCOL)))
    assert read_protocol(facts, "here") == PROTOCOL


def test_missing_and_unknown_fields_are_named() -> None:
    facts = asdict(PROTOCOL) | {"tempreature": 0}
    del facts["temperature"]
    with pytest.raises(
        BadInput, match="none of temperature and besides them tempreature"
    ):
        read_protocol(facts, "here")


@pytest.mark.parametrize("other", [["ab"], ["b", "a"], ["a", "", "b"], ["a"]])
def test_other_prompts_have_another_hash(other: list[str]) -> None:
    assert prompts_hash(other) != prompts_hash(["a", "b"])
