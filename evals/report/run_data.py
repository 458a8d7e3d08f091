"""Everything that a run directory holds, read once."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmoe.conformance.faults.kill import Kill
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.rundir import read_run
from mxmoe.conformance.suite import whole_lines
from mxmoe.conformance.verify.layer_lines import LayerLine
from mxmoe.conformance.verify.layer_lines import read_layers
from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.answer_lines import read_answers
from mxmoe.reference.errors import BadInput

CHECKING = ("check", "pytest")
"""Commands that leave verdict lines."""


@dataclass(frozen=True, kw_only=True)
class RunData:
    """One run. kills : `mxmoe faults`. layers : `mxmoe verify`, by number."""

    folder: Path
    facts: Mapping[str, Any]
    verdicts: tuple[VerdictLine, ...]
    kills: tuple[Kill, ...]
    answers: Mapping[int, AnswerLine]
    layers: Mapping[int, LayerLine]

    @property
    def command(self) -> str:
        """``check``, ``gate``, ``bench moe``, ..."""
        return str(self.facts.get("command", "unknown"))

    @property
    def verdict(self) -> str:
        """The run's own last word, without its title; says so if it never ended."""
        found = self.facts.get("verdict")
        if found is None:
            timed = self.command.startswith("bench") or self.command == "peers"
            return "measured" if timed else "did not end"
        return str(found).removeprefix("verdict: ")

    @property
    def candidates(self) -> Sequence[Mapping[str, Any]]:
        """What ``run.json`` says of each candidate."""
        found = self.facts.get("candidates")
        if not isinstance(found, list):
            return ()
        return [one for one in found if isinstance(one, dict) and "name" in one]

    @property
    def options(self) -> Mapping[str, Any]:
        """What the user typed, as far as it was kept."""
        found = self.facts.get("options")
        return found if isinstance(found, dict) else {}

    def bundle_word(self, bundle: str | None) -> str:
        """As a shell takes it: readers copy the command that it stands in."""
        return "" if bundle is None else shlex.quote(str(self.folder / bundle))

    def bundle_folder(self, bundle: str | None) -> Path | None:
        """The bundle's folder, if it is one of this run."""
        if bundle is None:
            return None
        try:
            folder = (self.folder / bundle).resolve()
        except (ValueError, OSError):  # NUL, a lone surrogate: no name of a folder
            return None
        return folder if folder.is_relative_to(self.folder.resolve()) else None


def read_data(folder: Path) -> RunData:
    """Read a run directory; `BadInput` if it is none, or damaged."""
    run = read_run(folder)
    answers = folder / "answers.jsonl"
    return RunData(
        folder=folder,
        facts=run.run,
        verdicts=run.verdicts,
        kills=_kills(folder / "faults.jsonl"),
        answers=read_answers(folder) if answers.exists() else {},
        layers=read_layers(folder),
    )


def _kills(path: Path) -> tuple[Kill, ...]:
    if not path.exists():
        return ()
    lines = whole_lines.whole_lines(path, "fault lines")
    return tuple(_kill(text, where) for where, text in lines)


def _kill(text: bytes, where: str) -> Kill:
    try:
        found = json.loads(text)
        found.pop("survived", None)
        return Kill(**found)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"{where}: expected a fault line, found {error}") from error
