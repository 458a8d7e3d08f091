"""What a gate compares with: the protocol, the score and how healthy runs looked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from typing import Any

from mxmoe.evals.gate.health import Baseline
from mxmoe.evals.gate.protocol import Protocol
from mxmoe.evals.gate.protocol import read_protocol
from mxmoe.evals.gate.rule import ReferenceTest
from mxmoe.evals.gate.rule import Rule
from mxmoe.evals.gate.rule import rule_from_threshold
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import MoEConfig

FOLDER = Path(__file__).parent / "references"
Shape = tuple[int, MoEConfig]  # layers, and one layer


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One entry.

    score : percent. runs : what it was measured on, with provenance. model : the
    shape of the model, for a score of weights whose hash nobody published. unfixed :
    fields of the protocol that the score's source does not fix. threshold : percent,
    in the place of what follows from the score.
    """

    protocol: Protocol
    score: float
    baseline: Baseline
    runs: tuple[Mapping[str, Any], ...]
    model: Mapping[str, int] | None = None
    unfixed: tuple[str, ...] = ()
    threshold: float | None = None

    @property
    def test(self) -> ReferenceTest:
        """The acceptance test around the score, in TensorRT-LLM's notation."""
        return ReferenceTest(reference=self.score, asked=self.protocol.questions)

    @property
    def rule(self) -> Rule:
        """How many correct answers pass."""
        if self.threshold is None:
            return self.test.rule()
        return rule_from_threshold(self.threshold, asked=self.protocol.questions)

    def notation(self) -> dict[str, float]:
        """For a record: the fixed threshold, or alpha, beta, sigma, theta and what
        they make of the score; percent.
        """
        if self.threshold is not None:
            return {"threshold": self.threshold, "questions": self.protocol.questions}
        test = self.test
        return {
            "reference": test.reference,
            "alpha": test.alpha,
            "beta": test.beta,
            "sigma": test.sigma,
            "theta": test.theta,
            "threshold": test.threshold,
            "questions": test.asked,
        }

    def differences(self, found: Protocol) -> list[str]:
        """Where a run's protocol is another, in what this entry fixes."""
        free = {name: getattr(self.protocol, name) for name in self.unfixed}
        return self.protocol.differences(replace(found, **free))

    def is_of(self, shape: Shape) -> bool:
        """Whether the score is of a model of this shape, as far as the entry says."""
        layers, config = shape
        sizes = {"layers": layers, "hidden": config.hidden, "experts": config.experts}
        return self.model is None or dict(self.model) == sizes


def find_reference(
    task: str, *, shape: Shape, threshold: float | None = None
) -> Reference:
    """The entry of a task for a model of `shape`.

    With a fixed `threshold` any weights will do, under the task's protocol. `BadInput`
    where there is no entry.
    """
    entries = [load_reference(path.stem) for path in sorted(FOLDER.glob("*.json"))]
    entries = [entry for entry in entries if entry.protocol.task == task]
    fitting = [entry for entry in entries if entry.is_of(shape)]
    if threshold is not None and entries:
        entry = (fitting or entries)[0]
        healthy = entry.baseline if fitting else replace(entry.baseline, tokens=None)
        return replace(
            entry,
            baseline=healthy,
            unfixed=(*entry.unfixed, "model_sha256"),
            threshold=threshold,
        )
    if not fitting:
        layers, config = shape
        raise BadInput(
            f"task {task}: expected a model that has a reference score or --threshold, "
            f"found one of {layers} layers {config.label()}"
        )
    return fitting[0]


def load_reference(name: str) -> Reference:
    """The entry in a file of `references`; `BadInput` where there is none."""
    path = FOLDER / f"{name}.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.json")))
        raise BadInput(
            f"task: expected one that has a reference ({known}), found {name!r}"
        ) from error
    tokens = facts.get("tokens")
    return Reference(
        protocol=read_protocol(facts["protocol"], path.name),
        score=facts["score"],
        baseline=Baseline(
            tokens=None if tokens is None else tuple(tokens),
            truncated=facts["truncated"],
            repeating=facts["repeating"],
        ),
        runs=tuple(facts["runs"]),
        model=facts.get("model"),
        unfixed=tuple(facts.get("unfixed", ())),
    )
