"""What was found in a layer, for a person: one sentence, then the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields
from dataclasses import replace

from mxmoe.conformance.bounds.compare_numbers import damage
from mxmoe.evals.locate.cause import Cause
from mxmoe.evals.locate.divergence import Divergence
from mxmoe.evals.locate.honest import error_over_honest
from mxmoe.evals.locate.layer import LayerResult
from mxmoe.evals.locate.layer_bytes import WrongBytes
from mxmoe.evals.locate.layer_numbers import BY_SLOT
from mxmoe.evals.locate.wrong_lane_causes import HALVES
from mxmoe.reference.layouts import LAYOUTS
from mxmoe.reference.layouts import IndexMap

# Numbers in a list before it is cut.
_LISTED = 8


def sentence(result: LayerResult, causes: Sequence[Cause]) -> str:
    """``layer 2, stage gate_up, expert 3, token 5 slot 1, column 17 (up 8): why``."""
    where = f"layer {result.under.number}"
    if result.failure is not None:
        first = result.failure.text.splitlines()[0]
        return f"{where}: {first}"
    found, why = result.divergence, _why(result, causes)
    if found is not None:
        return f"{where}, {_place(result, found, causes)}: {why}"
    if result.routing is not None:
        routing = result.routing
        return f"{where}, stage {routing.stage}, {routing.token}: {routing.line}"
    if result.wrong_bytes:
        return f"{where}: {why}; these inputs do not show it"
    lines = result.numbers.residual
    return f"{where}, stage combine: {lines[0]}" if lines else f"{where}: nothing wrong"


@dataclass(frozen=True, kw_only=True)
class Spot:
    """Where a fault lies: as it was seen, or as the bytes or the cause say."""

    stage: str
    expert: int | None
    slot: int | None
    column: int


def spot(result: LayerResult, found: Divergence, causes: Sequence[Cause]) -> Spot:
    """Of the first cause; bytes say more of what was seen behind both GEMMs."""
    seen = Spot(
        stage=found.stage, expert=found.expert, slot=found.slot, column=found.column
    )
    first = result.wrong_bytes[0] if result.wrong_bytes else None
    if result.numbers.seen == BY_SLOT and first is not None and first.row is not None:
        return replace(seen, stage=first.matrix, column=first.row)
    if not causes:
        return seen
    says = {f.name: getattr(causes[0], f.name) for f in fields(Spot)}
    return replace(seen, **{n: value for n, value in says.items() if value is not None})


def _place(result: LayerResult, found: Divergence, causes: Sequence[Cause]) -> str:
    at = spot(result, found, causes)
    words = [f"stage {at.stage}"]
    if at.expert is not None:
        words.append(f"expert {at.expert}")
    token = str(result.under.inputs.tokens[found.row])
    words.append(token if at.slot is None else f"{token} slot {at.slot}")
    column = at.column
    half = f" ({HALVES[column % 2]} {column // 2})" if at.stage == "gate_up" else ""
    return ", ".join([*words, f"column {column}{half}"])


def _why(result: LayerResult, causes: Sequence[Cause]) -> str:
    found = result.divergence
    if result.wrong_bytes:
        wrong = _bytes_of(result, None if found is None else found.stage)
        return f"bytes differ: {_bytes_why(wrong)}"
    assert found is not None
    if found.nonfinite:
        return "NaN or infinity from finite inputs"
    if not causes:
        return "no known cause explains all of its rows"
    return _any_of([cause.text for cause in causes])


def _any_of(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else "any of: " + "; ".join(texts)


def _bytes_of(result: LayerResult, stage: str | None) -> WrongBytes:
    """The wrong tensor that the stage reads, or the first."""
    prepared = result.under.candidate.weights
    assert prepared.layout is not None
    entries = LAYOUTS[prepared.layout].maps(prepared.config, prepared.shard)
    for wrong in result.wrong_bytes:
        entry = entries.get(wrong.tensor)
        if isinstance(entry, IndexMap) and entry.source.startswith(stage or "-"):
            return wrong
    return result.wrong_bytes[0]


def _bytes_why(wrong: WrongBytes) -> str:
    whose = _experts(wrong.experts)
    for line in wrong.lines:
        if line.startswith("why") and "no edit of" not in line:
            reason = line.removeprefix("why").strip().removeprefix(f"{wrong.tensor}: ")
            if wrong.tensor.endswith("bias") and _moves_rows(reason):
                reason = f"the bias is not in the weights' row order ({reason})"
            return f"{wrong.tensor}{whose}: {reason}"
    says = [line.strip() for line in wrong.lines if line.startswith("  ")]
    return f"{wrong.tensor}{whose}: {'; '.join(says[:2]) or wrong.lines[0]}"


def _moves_rows(reason: str) -> bool:
    steps = ("row shuffle", "interleave", "rows ", "stack", "halves")
    return any(step in reason for step in steps)


def _experts(experts: Sequence[int]) -> str:
    if not experts:
        return ""
    listed = ", ".join(map(str, experts[:_LISTED]))
    more = ", ..." if len(experts) > _LISTED else ""
    return f" of expert{'s' if len(experts) > 1 else ''} {listed}{more}"


def evidence(result: LayerResult) -> list[str]:
    """The numbers, the bytes, the notes; most telling first."""
    lines = []
    if result.failure is not None:
        lines += result.failure.text.splitlines()[1:]
    for wrong in result.wrong_bytes:
        lines.append(f"bytes differ: {wrong.tensor}{_experts(wrong.experts)}")
        lines += [f"  {line.strip()}" for line in wrong.lines]
    if result.routing is not None:
        routing = result.routing
        lines.append(f"{routing.stage}, {routing.token}: {routing.line}")
    if result.divergence is not None:
        lines += _number_lines(result, result.divergence)
    lines += result.numbers.residual
    lines += result.numbers.notes
    if not result.wrong_bytes and result.under.experts is not None:
        lines.append(_bytes_note(result))
    return lines


def _bytes_note(result: LayerResult) -> str:
    prepared, subject = result.under.candidate.weights, result.under.candidate.subject
    if prepared.layout is None:
        return "prepared bytes: not observable (a layout of the candidate's own)"
    if not subject.has("prepare"):
        return "prepared bytes: ours, so the kernel computes it"
    return f"prepared bytes: as {prepared.layout} says, so the kernel computes it"


def _number_lines(result: LayerResult, found: Divergence) -> list[str]:
    at = found.at
    allowed, off = float(found.allowed[at]), float(found.found[at] - found.truth[at])
    counts = allowed > 0 and not found.nonfinite
    ratio = f" ({abs(off) / allowed:.3g}x)" if counts else ""
    how = "seen slot by slot, so with all that is before it"
    lines = [
        f"{found.stage} there: expected {float(found.truth[at]):.6g}, "
        f"found {float(found.found[at]):.6g}, allowed {allowed:.3g}{ratio}"
        + (f"; {how}" if result.numbers.seen == BY_SLOT else ""),
    ]
    bad, total = int(found.bad.sum()), found.bad.numel()
    lines.append(f"out of bound: {bad} of {total} elements; {damage_words(found)}")
    times = error_over_honest(result)
    if times is not None:
        name = result.under.arithmetic.name
        lines.append(
            f"rms error of the wrong rows: {times:.3g} times that of an honest "
            f"computation in class {name}"
        )
    return lines


def damage_words(found: Divergence) -> str:
    """Rows and columns of the first expert; the other experts; or the shape of it."""
    if found.expert is None:
        return damage(found.bad, found.routing)
    mine = found.rows_of(found.expert)
    rows = found.bad.any(dim=-1)
    columns = found.bad[mine].any(dim=0).nonzero()[:, 0].tolist()
    which = f"{len(columns)} columns"
    if len(columns) <= _LISTED:
        word = "column" if len(columns) == 1 else "columns"
        which = f"{word} {', '.join(map(str, columns))} only"
    text = (
        f"expert {found.expert}: {int((rows & mine).sum())} of {int(mine.sum())} "
        f"rows, {which}"
    )
    others = [e for e in found.experts if e != found.expert]
    return text + (f"; also{_experts(others)}" if others else "; no other expert")
