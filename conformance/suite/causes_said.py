"""The causes that failures name, read from their texts, and those named most often."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence

from mxmoe.conformance.rundir import VerdictLine

CLOSE = "close to the bound"
# What `why` lines say where nothing was found, or not searched.
_UNEXPLAINED = (
    *(CLOSE, "no edit of", "none of the known", "no mixture of", "not searched"),
    *("nothing known", "nothing of earlier calls"),
)
# What two outputs have to do with each other: a fact, and no cause.
_OF_TWO_OUTPUTS = (
    *("both outputs are", "it is broken from", "other bits than"),
    *("the output follows", "the row of token", "the same call gives"),
    *("the second output is", "wrong are exactly those", "wrong are exactly all"),
)
_WHERE_ELSE = re.compile(
    r" \((in case|case|the (first|second) output|every rank|ranks? tp|the one rank"
    r"|the sum).*\)$"
)
# So many are repeated at the end of a run.
_SHOWN = 3


def causes_said(lines: Sequence[str]) -> tuple[str, ...]:
    """The alternatives that the first ``why`` of a failure's lines gives."""
    for line in lines:
        if not line.startswith("why "):
            continue
        said = line.removeprefix("why").strip()
        if any(word in said for word in _UNEXPLAINED):
            return ()
        if said.startswith(_OF_TWO_OUTPUTS):
            continue
        _, listed, causes = said.partition("behaves as if: ")
        if listed:
            return tuple(_WHERE_ELSE.sub("", causes).split("; or "))
        _, listed, causes = said.partition("any of: ")
        return tuple((causes if listed else said).split("; "))
    return ()


def said_most(lines: Sequence[VerdictLine]) -> Iterator[str]:
    """``cause  X: ... (7 of 11 failures)`` for each candidate that failed repeatedly.

    One failure may have several explanations; the right one is among those of most.
    """
    for name in dict.fromkeys(v.candidate for v in lines):
        failed = [v for v in lines if v.candidate == name and v.verdict.failed]
        said = Counter(
            cause for v in failed for cause in causes_said(v.text.splitlines())
        )
        often = [(cause, n) for cause, n in said.most_common(_SHOWN) if n > 1]
        for cause, n in often:
            yield f"cause  {name}: {cause} ({n} of {len(failed)} failures)"
