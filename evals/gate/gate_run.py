"""A gate's run directory, read back and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmoe.conformance.rundir import read_run
from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.answer_lines import read_answers
from mxmoe.evals.gate.counted import counted_answers
from mxmoe.evals.gate.ended import read_conclusion
from mxmoe.evals.gate.protocol import Protocol
from mxmoe.evals.gate.protocol import read_protocol
from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.reference.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class GateRun:
    """One ended run. facts : its run.json. answers : by question, those that count:
    not what was in flight when the run was decided.
    """

    folder: Path
    facts: Mapping[str, Any]
    protocol: Protocol
    conclusion: Conclusion
    answers: Mapping[int, AnswerLine]

    @property
    def correct(self) -> int:
        """How many answers are."""
        return sum(line.correct for line in self.answers.values())

    @property
    def full(self) -> bool:
        """Whether all questions count: only then is `correct` a score."""
        return len(self.answers) == self.protocol.questions


def read_gate_run(folder: Path) -> GateRun:
    """The run in `folder`.

    Raises `BadInput` for a folder that is no run of `mxmoe gate`, for one that has not
    ended, and for a damaged one.
    """
    facts = read_run(folder).run
    if facts.get("command") != "gate":
        raise BadInput(
            f"{folder}: expected a run of mxmoe gate, "
            f"found one of {facts.get('command')!r:.40}"
        )
    if "verdict" not in facts:
        raise BadInput(f"{folder}: expected a run that has ended, found no verdict")
    conclusion = read_conclusion(folder, facts)
    if not isinstance(protocol := facts.get("protocol"), dict):
        raise BadInput(f"{folder}: expected a protocol, found {protocol!r:.40}")
    counted = counted_answers(read_answers(folder), facts, str(folder))
    return GateRun(
        folder=folder,
        facts=facts,
        protocol=read_protocol(protocol, str(folder)),
        conclusion=conclusion,
        answers={line.question: line for line in counted},
    )
