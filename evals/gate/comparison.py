"""Two runs of the gate, and whether their difference is the kernel's.

A score moves for other reasons than a kernel: other weights, another prompt, another
card. So runs are compared only if all of that is the same, or the user says across
what.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from typing import Any

from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.gate.flips import Flip
from mxmoe.evals.gate.flips import flips_of
from mxmoe.evals.gate.gate_run import GateRun
from mxmoe.evals.gate.paired import ALPHA
from mxmoe.evals.gate.paired import Paired
from mxmoe.evals.gate.paired_many import compare_with_many
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.reference.errors import BadInput

# What `--across` takes, and what of a run it lets differ.
ACROSS = {
    "candidate": "another candidate, or another fault in it",
    "protocol": "other prompts, extraction, output limit, order or harness",
    "model": "other weights or another chat template",
    "dtype": "another dtype of the model",
    "device": "another device or driver",
    "questions": "other questions answered: those in both runs are compared",
}
_JUDGED = (GateVerdict.PASS, GateVerdict.FAIL)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What comparing found, or why nothing could be compared.

    refused : differences that were not allowed, as sentences; then there is no
    `paired`. crossed : those that were. notes : what else differs, and may explain
    flips. flips : the questions behind `paired`, with what was answered.
    """

    baselines: tuple[Path, ...]
    run: Path
    refused: tuple[str, ...] = ()
    crossed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    paired: Paired | None = None
    flips: tuple[Flip, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """FAIL if worse; INCONCLUSIVE if no drop at all could have been seen."""
        if self.paired is None:
            return ExitCode.INVALID
        if self.paired.worse:
            return ExitCode.FAIL
        return (
            ExitCode.INCONCLUSIVE if self.paired.detectable is None else ExitCode.PASS
        )

    def as_json(self) -> dict[str, Any]:
        """For `--json`, and what a run directory keeps."""
        facts: dict[str, Any] = {
            "verdict": self.exit_code.name.lower(),
            "baselines": [str(folder) for folder in self.baselines],
            "run": str(self.run),
            "refused": list(self.refused),
            "across": list(self.crossed),
            "notes": list(self.notes),
        }
        if self.paired is not None:
            facts |= asdict(self.paired)
            facts |= {"drop": self.paired.drop, "worse": self.paired.worse}
            facts |= {n: [int(q) for q in facts[n]] for n in ("lost", "gained")}
            facts["flips"] = [asdict(flip) for flip in self.flips]
            del facts["mean_drop"]
        return facts


def compare_runs(
    baselines: Sequence[GateRun],
    run: GateRun,
    *,
    across: Collection[str] = (),
    alpha: float = ALPHA,
) -> Comparison:
    """Compare a run with one baseline run or more; `BadInput` for an unknown `across`.

    A run without a verdict on its candidate (invalid, inconclusive) has no score and is
    refused whatever `across` says.
    """
    for name in across:
        if name not in ACROSS:
            raise BadInput(
                f"--across: expected {', '.join(ACROSS)}, found {name!r:.40}"
            )
    found = Comparison(baselines=tuple(b.folder for b in baselines), run=run.folder)
    refused = [line for each in (*baselines, run) for line in _unjudged(each)]
    crossed: list[str] = []
    for baseline in baselines:
        for kind, lines in differences(baseline, run).items():
            told = [f"{kind}: {line}" for line in lines]
            (crossed if kind in across else refused).extend(told)
    found = replace(
        found,
        refused=tuple(dict.fromkeys(refused)),
        crossed=tuple(dict.fromkeys(crossed)),
        notes=tuple(dict.fromkeys(n for b in baselines for n in _notes(b, run))),
    )
    if found.refused:
        return found
    common = set(run.answers).intersection(*(b.answers for b in baselines))
    if not common:
        return replace(found, refused=("questions: none was answered in all runs",))
    marks = [
        {f"{q:04d}": each.answers[q].correct for q in common}
        for each in (*baselines, run)
    ]
    paired = compare_with_many(marks[:-1], marks[-1], alpha=alpha)
    answers = [baseline.answers for baseline in baselines]
    flips = flips_of(paired, answers, run.answers, task=run.protocol.task)
    return replace(found, paired=paired, flips=flips)


def differences(baseline: GateRun, run: GateRun) -> Mapping[str, list[str]]:
    """What differs, by the names of `ACROSS`."""
    model = "model_sha256"
    same_model = replace(run.protocol, model_sha256=baseline.protocol.model_sha256)
    theirs, mine = baseline.facts, run.facts
    answered = [
        f"expected {len(baseline.answers)} answered, found {len(run.answers)}"
        + (" others" if len(baseline.answers) == len(run.answers) else "")
    ]
    return {
        "candidate": _of(theirs["options"], mine["options"], "candidate", "fault"),
        "protocol": baseline.protocol.differences(same_model)
        + _of(theirs, mine, "questions_sha256"),
        "model": _of(asdict(baseline.protocol), asdict(run.protocol), model)
        + _of(theirs, mine, "template_sha256"),
        "dtype": _of(theirs["options"], mine["options"], "dtype"),
        "device": _of(theirs, mine, "device", "driver"),
        "questions": answered if baseline.answers.keys() != run.answers.keys() else [],
    }


def _of(theirs: Mapping[str, Any], mine: Mapping[str, Any], *names: str) -> list[str]:
    return [
        f"{name}: expected {theirs.get(name)!r}, found {mine.get(name)!r}"
        for name in names
        if theirs.get(name) != mine.get(name)
    ]


def _unjudged(run: GateRun) -> list[str]:
    verdict = run.conclusion.verdict
    if verdict in _JUDGED:
        return []
    return [f"{run.folder}: expected a run that passed or failed, found {verdict}"]


def _notes(baseline: GateRun, run: GateRun) -> list[str]:
    theirs, mine = baseline.facts, run.facts
    versions = sorted({*theirs["versions"], *mine["versions"]})
    found = _of(theirs["versions"], mine["versions"], *versions)
    found += _of(theirs["options"], mine["options"], "batch", "candidate_file")
    return [line.replace("expected", "was").replace("found", "is") for line in found]
