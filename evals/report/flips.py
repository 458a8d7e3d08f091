"""Gates on the same questions: what flipped, and is the second one worse?

Comparisons come from runs of `mxmoe compare`, and from a baseline that the report is
given, with which each of its gates is compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.comparison import Comparison
from mxmoe.evals.gate.flips import flips_of
from mxmoe.evals.gate.paired import CONFIDENCE
from mxmoe.evals.gate.paired import POWER
from mxmoe.evals.gate.paired import Paired
from mxmoe.evals.gate.paired import compare_paired
from mxmoe.evals.gate.recorded_comparison import read_comparison
from mxmoe.evals.report.document import Cell
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Section
from mxmoe.evals.report.document import Table
from mxmoe.evals.report.gate_section import GateRun
from mxmoe.evals.report.gate_section import newest
from mxmoe.evals.report.run_data import RunData

_COLUMNS = ("question", "flip", "asked", "baseline wrote", "run wrote")
_HEAD = ("run", "baseline", "verdict")
_NUMBERS = ("asked", "lost", "gained", "drop", f"{100 * CONFIDENCE:.0f} %")
_TOTALS = (*_HEAD, *_NUMBERS, "detectable", "p")
_WORDS = {
    ExitCode.PASS: ("not worse", Mark.GOOD),
    ExitCode.FAIL: ("worse", Mark.BAD),
    ExitCode.INVALID: ("refused", Mark.IDLE),
    ExitCode.INCONCLUSIVE: ("inconclusive", Mark.IDLE),
}
_FILL = "mxmoe compare BASELINE RUN --out DIR   (both of mxmoe gate, best with --full)"


def comparisons(
    runs: Sequence[RunData], gates: Sequence[GateRun], baseline: GateRun | None
) -> list[Comparison]:
    """Those that were kept, then each gate against `baseline`."""
    kept = [
        read_comparison(run.facts.get("compared"), f"{run.folder / 'run.json'}")
        for run in runs
        if run.command == "compare"
    ]
    if baseline is None:
        return kept
    own = baseline.run.folder.resolve()
    others = [gate for gate in gates if gate.run.folder.resolve() != own]
    shown = newest(others)
    return kept + [_compare(baseline, g, quoted=g in shown) for g in others]


def flips(found: Sequence[Comparison]) -> Section:
    """A row for each comparison, and a table of the questions that flipped."""
    marks = {_WORDS[one.exit_code][1] for one in found}
    total = Table(
        caption="Runs compared, question by question",
        columns=_TOTALS,
        rows=tuple(map(_row, found)),
    )
    return Section(
        key="flips",
        title="Paired flips",
        mark=next(
            (m for m in (Mark.BAD, Mark.IDLE, Mark.GOOD) if m in marks), Mark.PLAIN
        ),
        count="worse" if Mark.BAD in marks else "",
        says=tuple(sentence for one in found for sentence in _said(one)),
        tables=(total,) if found else (),
        details=tuple(_table(one) for one in found if one.flips),
        fill=_FILL,
    )


def _compare(baseline: GateRun, gate: GateRun, *, quoted: bool) -> Comparison:
    """On what was asked of both; quoted : whether to keep the questions' texts."""
    theirs, mine = _by_question(baseline), _by_question(gate)
    common = sorted(theirs.keys() & mine.keys())
    folders = (baseline.run.folder,), gate.run.folder
    if not common:
        said = ("questions: none was answered in both runs",)
        return Comparison(baselines=folders[0], run=folders[1], refused=said)
    right = [{str(q): each[q].correct for q in common} for each in (theirs, mine)]
    paired = compare_paired(*right)
    return Comparison(
        baselines=folders[0],
        run=folders[1],
        paired=paired,
        flips=flips_of(paired, [theirs], mine, task=gate.task) if quoted else (),
    )


def _by_question(gate: GateRun) -> dict[int, AnswerLine]:
    return {line.question: line for line in gate.counted}


def _row(one: Comparison) -> tuple[Cell, ...]:
    word, mark = _WORDS[one.exit_code]
    head = (
        Cell(text=str(one.run), code=True),
        Cell(text=", ".join(map(str, one.baselines)), code=True),
        Cell(text=word, mark=mark),
    )
    if one.paired is None:
        return head + (Cell(text="-"),) * (len(_TOTALS) - len(head))
    found, seen = one.paired, one.paired.detectable
    low, high = (100 * end for end in found.interval)
    return (
        *head,
        Cell(text=str(found.asked), number=found.asked),
        Cell(text=str(len(found.lost)), number=len(found.lost)),
        Cell(text=str(len(found.gained)), number=len(found.gained)),
        Cell(text=f"{100 * found.drop:.2f}", number=found.drop),
        Cell(text=f"{low:.2f} to {high:.2f}", number=low),
        Cell(text="none" if seen is None else f"{100 * seen:.2f}", number=seen),
        Cell(text=f"{found.p_worse:.2g}", number=found.p_worse),
    )


def _said(one: Comparison) -> list[str]:
    told = [f"{one.run}: refused, {line}." for line in one.refused]
    told += [f"{one.run}: compared although {line}." for line in one.crossed]
    told += [f"{one.run}: {line}." for line in one.notes]
    if one.paired is not None:
        many = len(one.baselines)
        against = "the baseline" if many == 1 else f"{many} baselines"
        told.append(_sentence(f"{one.run}", against, one.paired))
    return told


def _sentence(run: str, against: str, found: Paired) -> str:
    low, high = (100 * end for end in found.interval)
    seen = " No drop at all could have been seen."
    if found.detectable is not None:
        seen = (
            f" A drop of {100 * found.detectable:.2f} points is the smallest that "
            f"{100 * POWER:.0f} % of such comparisons would have seen."
        )
    word = "worse" if found.worse else "not shown to be worse"
    return (
        f"{run} is {word} than {against} on {found.asked} common questions: "
        f"{len(found.lost)} lost, {len(found.gained)} gained, net drop "
        f"{100 * found.drop:.2f} points ({100 * CONFIDENCE:.0f} %: {low:.2f} to "
        f"{high:.2f}), p = {found.p_worse:.2g}.{seen}"
    )


def _table(one: Comparison) -> Table:
    rows = tuple(
        (
            Cell(text=str(flip.question), number=flip.question),
            Cell(text="lost", mark=Mark.BAD)
            if flip.lost
            else Cell(text="gained", mark=Mark.GOOD),
            Cell(text=flip.asked),
            Cell(text=flip.baseline, code=True),
            Cell(text=flip.run, code=True),
        )
        for flip in one.flips
    )
    caption = f"{one.run}: questions that flipped"
    return Table(caption=caption, columns=_COLUMNS, rows=rows)
