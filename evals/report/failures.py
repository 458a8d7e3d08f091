"""Failures, those with one explanation together; pictures of the first of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mxmoe.evals.report.document import FailureGroup
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Picture
from mxmoe.evals.report.document import Section
from mxmoe.evals.report.explanation import again
from mxmoe.evals.report.explanation import explanation
from mxmoe.evals.report.pictures.of_bundle import pictures_of
from mxmoe.evals.report.subjects import Judged

# A page is read, not searched: pictures of more groups would be megabytes of it.
_PICTURED = 8


@dataclass(frozen=True, kw_only=True)
class _Failure:
    candidate: str
    level: str
    check: str
    case: str
    text: str
    bundle: str
    folder: Path | None


def failures(judged: Sequence[Judged]) -> Section:
    """Groups in the order of their size; nothing is left out of their lists."""
    found: dict[tuple[str, str, str], list[_Failure]] = {}
    for one in judged:
        for failure in _failures(one):
            key = one.name, failure.level, explanation(failure.text)
            found.setdefault(key, []).append(failure)
    ordered = sorted(found.items(), key=lambda entry: -len(entry[1]))
    groups = tuple(
        _group(why, members, pictured=number < _PICTURED)
        for number, ((_, _, why), members) in enumerate(ordered)
    )
    total = sum(len(members) for members in found.values())
    ran = any(one.lines or one.ranks for one in judged)
    says: tuple[str, ...] = ()
    if groups:
        says = (f"{total} failed checks have {len(groups)} explanations.",)
    elif ran:
        says = ("No check failed.",)
    return Section(
        key="failures",
        title="Failures",
        count=str(total) if ran else "",
        mark=Mark.BAD if groups else Mark.GOOD if ran else Mark.PLAIN,
        says=says,
        groups=groups,
        fill="mxmoe check -c CANDIDATE",
    )


def _group(why: str, members: Sequence[_Failure], *, pictured: bool) -> FailureGroup:
    # Tensors of one expert or many: the picture is of whichever bundle has one.
    first = members[0]
    shown: tuple[Picture, ...] = ()
    if pictured:
        for member in members[:3]:
            shown = () if member.folder is None else pictures_of(member.folder)
            if shown:
                first = member
                break
    return FailureGroup(
        candidate=first.candidate,
        level=first.level,
        why=why,
        text=first.text,
        again=again(first.text),
        bundle=first.bundle,
        checks=tuple((one.check, one.case, one.bundle) for one in members),
        pictures=shown,
    )


def _failures(one: Judged) -> list[_Failure]:
    found = [
        _Failure(
            candidate=one.name,
            level=line.level,
            check=line.check.partition("::")[2] or line.check,
            case=line.case or "",
            text=line.text or line.reason,
            bundle=run.bundle_word(line.bundle),
            folder=run.bundle_folder(line.bundle),
        )
        for run, line in one.lines
        if line.verdict.failed
    ]
    return found + [
        _Failure(
            candidate=one.name,
            level="L1",
            check=f"verify layer {layer} {rank.shard}: {', '.join(rank.tensors)}",
            case="",
            text=rank.text or str(rank.verdict),
            bundle="",
            folder=None,
        )
        for _, layer, rank in one.ranks
        if rank.verdict.failed
    ]
