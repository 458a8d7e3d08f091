"""Why the output of one rank of a group is wrong, where others of its group are right.

The rank alone tells what it does otherwise, such as a bias that it does not add; its
group tells which ranks do so.
"""

from __future__ import annotations

from collections.abc import Sequence

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.judging.group_outputs import group_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.why_numbers.ranks.each import explain_each
from mxmoe.conformance.why_numbers.ranks.seen import Seen
from mxmoe.conformance.why_numbers.ranks.seen import told_group

_BEHAVES = "why    behaves as if: "
# What `each` says of a rank's share of it is true of what the rank does, too.
_SHARED = "down bias"


def with_its_group(judge: Judge, case: Case, lines: Sequence[str]) -> list[str]:
    """`lines` about an output of the rank of `case`, with what its group tells.

    The candidate is called on a telling case, by every rank.
    """
    number = next((n for n, s in enumerate(lines) if s.startswith(_BEHAVES)), None)
    told = None if number is None else _told(judge, case)
    if told is None or number is None or not told.wrong:
        return list(lines)
    labels = [rank.label() for rank in told.group.ranks]
    right = [label for r, label in enumerate(labels) if r not in told.wrong]
    if case.shard.label() in right or not right:
        return list(lines)
    why, where = lines[number], f"in case {told.group.case}"
    parts = told.group.parts(judge.subject.arithmetic.output)
    each = [s for s in explain_each(told.outputs, parts) if s.startswith(_SHARED)]
    if each and _SHARED in why:
        said = f"{_BEHAVES}{'; or '.join(each)} ({where})"
    else:
        said = f"{why} (rank {right[0]} is right {where})"
    return [*lines[:number], said, *lines[number + 1 :]]


def _told(judge: Judge, case: Case) -> Seen | None:
    if case.shard.is_whole() or not judge.may_explain():
        return None
    try:
        return told_group(judge, group_of(judge.aside(), case))
    # Not every rank is supported, or calls fail that only explain.
    except Exception:
        return None
