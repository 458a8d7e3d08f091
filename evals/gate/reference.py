"""What a gate compares with: the protocol, the score and how healthy runs looked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmoe.evals.gate.health import Baseline
from mxmoe.evals.gate.protocol import Protocol
from mxmoe.evals.gate.protocol import read_protocol
from mxmoe.evals.gate.rule import ReferenceTest
from mxmoe.reference.errors import BadInput

FOLDER = Path(__file__).parent / "references"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One entry. score : percent. runs : what it was measured on, with provenance."""

    protocol: Protocol
    score: float
    baseline: Baseline
    runs: tuple[Mapping[str, Any], ...]

    @property
    def test(self) -> ReferenceTest:
        """The acceptance test around the score, in TensorRT-LLM's notation."""
        return ReferenceTest(reference=self.score, asked=self.protocol.questions)


def load_reference(task: str) -> Reference:
    """The entry of a task; `BadInput` where there is none."""
    path = FOLDER / f"{task}.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.json")))
        raise BadInput(
            f"task: expected one that has a reference ({known}), found {task!r}"
        ) from error
    return Reference(
        protocol=read_protocol(facts["protocol"], path.name),
        score=facts["score"],
        baseline=Baseline(
            tokens=tuple(facts["tokens"]),
            truncated=facts["truncated"],
            repeating=facts["repeating"],
        ),
        runs=tuple(facts["runs"]),
    )
