"""What crosses the border: JSON and safetensors, nothing that is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from multiprocessing.connection import Connection
from typing import Any

import torch
from safetensors.torch import load
from safetensors.torch import save

from mxmoe.conformance.bundles.repetitions import Repetition

PASSED, FAILED, NOT_JUDGED, BROKEN = "passed", "failed", "not judged", "broken"


@dataclass(frozen=True, kw_only=True)
class Question:
    """Judge `repetition`, on the case of that word only if one is given.

    telling : the candidate may be called on another case to explain a failure.
    """

    repetition: Repetition
    case: str | None
    searching: bool
    telling: bool = True

    def send(self, connection: Connection) -> None:
        """Write it as one message."""
        send_json(connection, asdict(self))

    @classmethod
    def receive(cls, connection: Connection) -> Question:
        """The next question; `EOFError` when nobody asks any more."""
        found = receive_json(connection)
        words = found.pop("repetition")
        pairs = tuple((name, word) for name, word in words.pop("parameters"))
        return cls(repetition=Repetition(parameters=pairs, **words), **found)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the judge in the child concluded and recorded.

    leaving : the child ends itself, because its device is unusable.
    """

    outcome: str
    verdict: str = ""
    text: str = ""
    case: str | None = None
    worst: float | None = None
    measured: tuple[tuple[str, str, float], ...] = ()
    reached: tuple[Mapping[str, Any], ...] = ()
    examples: int = 0
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] | None = None
    leaving: bool = False
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def send(self, connection: Connection) -> None:
        """Write it as two messages: everything but the tensors, then these."""
        dense = {
            n: t.detach().cpu().contiguous().clone() for n, t in self.tensors.items()
        }
        packed = save(dense) if dense else b""
        plain = {n: v for n, v in vars(self).items() if n != "tensors"}
        send_json(connection, plain)
        connection.send_bytes(packed)

    @classmethod
    def receive(cls, connection: Connection) -> Answer:
        """The next answer; `EOFError` when the child has died."""
        found = receive_json(connection)
        packed = connection.recv_bytes()
        found["notes"] = tuple(found["notes"])
        return cls(**found, tensors=load(packed) if packed else {})


def send_json(connection: Connection, document: Mapping[str, Any]) -> None:
    """Write one message."""
    connection.send_bytes(json.dumps(document).encode())


def receive_json(connection: Connection) -> dict[str, Any]:
    """Read one message."""
    found: dict[str, Any] = json.loads(connection.recv_bytes())
    return found
