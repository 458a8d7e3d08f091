"""The end of a gate's run, sealed: a verdict that cannot be told from another is none.

`run.json` gets the verdict, its reasons, how many answers counted and were correct, the
hash of `answers.jsonl`, and a hash over these. One changed byte, a missing answer or a
file of another run is found when the run is read again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mxmoe.conformance.rundir import RunWriter
from mxmoe.evals.gate.answer_lines import FILE
from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.answer_lines import read_answers
from mxmoe.evals.gate.counted import counted_answers
from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.reference.errors import BadInput

_SEALED = ("verdict", "reasons", "answered", "correct", "answers_sha256", "protocol")
SEAL = "seal_sha256"


def end(writer: RunWriter, conclusion: Conclusion) -> Conclusion:
    """Write the conclusion and seal it."""
    folder = writer.folder
    lines: tuple[AnswerLine, ...] = ()
    if "rule" in writer.facts:  # else it ended before it asked
        lines = counted_answers(read_answers(folder), writer.facts, str(folder))
    facts = {
        "verdict": str(conclusion.verdict),
        "reasons": list(conclusion.reasons),
        "answered": len(lines),
        "correct": sum(line.correct for line in lines),
        "answers_sha256": _answers_sha256(folder),
    }
    writer.describe(**facts, **{SEAL: _seal({**writer.facts, **facts})})
    return conclusion


def ended(writer: RunWriter) -> Conclusion | None:
    """The conclusion of a run that has one and could not be decided otherwise.

    None for a run that has not ended, or was stopped before it was decided. Raises
    `BadInput` where the seal does not fit.
    """
    if "verdict" not in writer.facts:
        return None
    conclusion = read_conclusion(writer.folder, writer.facts)
    stopped = conclusion.verdict is GateVerdict.INCONCLUSIVE
    return None if stopped else conclusion


def read_conclusion(folder: Path, facts: Mapping[str, Any]) -> Conclusion:
    """The sealed conclusion in the facts of a run; `BadInput` where it does not fit."""
    if _seal(facts) != facts.get(SEAL):
        raise BadInput(
            f"{folder / 'run.json'}: expected the verdict as it was written, "
            "found it changed"
        )
    if _answers_sha256(folder) != facts["answers_sha256"]:
        raise BadInput(
            f"{folder / FILE}: expected the answers that the verdict was found on, "
            "found others"
        )
    return Conclusion(GateVerdict(facts["verdict"]), tuple(facts["reasons"]))


def _seal(facts: Mapping[str, Any]) -> str:
    sealed = {name: facts.get(name) for name in _SEALED}
    text = json.dumps(sealed, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _answers_sha256(folder: Path) -> str:
    path = folder / FILE
    return hashlib.sha256(path.read_bytes() if path.exists() else b"").hexdigest()
