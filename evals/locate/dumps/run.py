"""``mxmoe locate --dumps``: the first difference of two folders of stages."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmoe.conformance.rundir import describe_machine
from mxmoe.conformance.rundir import open_run
from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.locate.causes import causes
from mxmoe.evals.locate.dumps.by_checkpoint import judge_dump
from mxmoe.evals.locate.dumps.first_difference import RULE
from mxmoe.evals.locate.dumps.first_difference import PairDifference
from mxmoe.evals.locate.dumps.first_difference import first_difference
from mxmoe.evals.locate.dumps.folder import LayerDump
from mxmoe.evals.locate.dumps.folder import open_dump
from mxmoe.evals.locate.row_causes import row_cause
from mxmoe.evals.locate.run import Located
from mxmoe.evals.locate.words import damage_words
from mxmoe.evals.locate.words import evidence
from mxmoe.evals.locate.words import sentence
from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import ARITHMETIC

# The class of an engine that says nothing else, as of a candidate.
DEFAULT_CLASS = "w4a16_fp32acc"


@dataclass(frozen=True, kw_only=True)
class DumpOptions:
    """The two folders; model : the checkpoint that both ran, or None."""

    reference: Path
    candidate: Path
    model: Path | None = None
    arithmetic: str = DEFAULT_CLASS


def run_dumps(
    options: DumpOptions,
    folder: Path,
    *,
    heard: Callable[[str], None] = lambda doing: None,
) -> Located:
    """Compare, layer by layer in order; raises `BadInput` for damaged dumps."""
    reference, candidate = open_dump(options.reference), open_dump(options.candidate)
    layers = [number for number in reference if number in candidate]
    if not layers:
        raise BadInput(
            f"{options.candidate}: expected layers of {options.reference} "
            f"({_listed(reference)}), found {_listed(candidate)}"
        )
    judge = _by_checkpoint(options) if options.model is not None else None
    found = []
    for number in layers:
        heard(f"layer {number}")
        pair = candidate[number], reference[number]
        one = judge(*pair) if judge is not None else _by_pair(*pair)
        if one is not None:
            found.append((number, one))
            if judge is None:
                break
    lines = [one[0] for _, one in found] or [
        f"no divergence: {len(layers)} layers of {options.candidate} agree with "
        f"{options.reference}"
    ]
    for number, (_, more) in found:
        lines += ["", f"layer {number}"] if len(found) > 1 else []
        lines += more
    absent = sorted(set(reference) ^ set(candidate))
    if absent:
        lines.append(
            f"not compared, as only one folder has it: layer {_listed(absent)}"
        )
    if options.model is None:
        lines += [RULE, *(["the layers behind it inherit it"] if found else [])]
    lines.append(f"again  {_again(options)}")
    return _kept(options, folder, lines, [number for number, _ in found])


Said = tuple[str, list[str]]
"""One sentence, and the evidence."""


def _by_checkpoint(
    options: DumpOptions,
) -> Callable[[LayerDump, LayerDump], Said | None]:
    assert options.model is not None
    checkpoint = open_checkpoint(options.model)
    if options.arithmetic not in ARITHMETIC:
        raise BadInput(
            f"--class: expected one of {', '.join(ARITHMETIC)}, "
            f"found {options.arithmetic!r:.40}"
        )
    arithmetic = ARITHMETIC[options.arithmetic]

    def judge(candidate: LayerDump, reference: LayerDump) -> Said | None:
        result = judge_dump(candidate, checkpoint, arithmetic)
        if result.divergence is None:
            return None
        lines = evidence(result)
        stage = result.divergence.stage
        other = judge_dump(reference, checkpoint, arithmetic).divergence
        if other is not None:
            lines.append(
                f"the reference's own dump is out of bound too, from {other.stage} on: "
                f"is its class {arithmetic.name}, and the checkpoint the right one?"
            )
        else:
            lines.append(f"the reference's own dump is within the bound of {stage}")
        return sentence(result, causes(result)), lines

    return judge


def _by_pair(candidate: LayerDump, reference: LayerDump) -> Said | None:
    found = first_difference(reference, candidate)
    where, lines = f"layer {reference.number}", _notes(found)
    if found.ids:
        word = f"{where}, stage ids, token {found.ids[0]}: visits other experts"
        return word, [f"{len(found.ids)} tokens are routed otherwise", *lines]
    at = found.divergence
    if at is None:
        return None
    words = [where, f"stage {at.stage}"]
    if at.expert is not None:
        words.append(f"expert {at.expert}")
    slot = "" if at.slot is None else f" slot {at.slot}"
    words += [f"token {at.row}{slot}", f"column {at.column}"]
    why = "NaN or infinity from finite inputs" if at.nonfinite else row_cause(at)
    if why is None and found.permuted in ("permuted", "rows permuted"):
        why = f"{found.permuted}: the same values in another order"
    text = f"{', '.join(words)}: {why or 'differs more than its input does'}"
    numbers = (
        f"{at.stage} there: reference {float(at.truth[at.at]):.6g}, "
        f"candidate {float(at.found[at.at]):.6g}"
    )
    bad, total = int(at.bad.sum()), at.bad.numel()
    return text, [numbers, f"{bad} of {total} elements; {damage_words(at)}", *lines]


def _notes(found: PairDifference) -> list[str]:
    lines = [f"stages in both: {', '.join(found.checked)}"]
    if found.ties:
        lines.append(f"left out: {found.ties} tokens whose experts differ by a tie")
    if found.inherited:
        lines.append("the hidden states that enter this layer differ already")
    return lines


def _listed(numbers: Sequence[int] | dict[int, Any]) -> str:
    some = list(numbers)[:8]
    return ", ".join(map(str, some)) + (", ..." if len(numbers) > 8 else "")


def _again(options: DumpOptions) -> str:
    words = ["mxmoe", "locate", "--dumps", str(options.reference)]
    words.append(str(options.candidate))
    if options.model is not None:
        words += ["--model", str(options.model)]
    if options.arithmetic != DEFAULT_CLASS:
        words += ["--class", options.arithmetic]
    return shlex.join(words)


def _kept(
    options: DumpOptions, folder: Path, lines: list[str], found: list[int]
) -> Located:
    code = ExitCode.FAIL if found else ExitCode.PASS
    writer = open_run(folder)
    facts = {
        "verdict": lines[0],
        "layers": found,
        "lines": lines,
        "run": str(folder),
    }
    writer.describe(
        command="locate",
        **describe_machine(),
        dumps=[str(options.reference), str(options.candidate)],
        exit_code=int(code),
        verdict=lines[0],
        located=facts,
    )
    return Located(code=code, lines=(*lines, f"run {folder}"), facts=facts)
