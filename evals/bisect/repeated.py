"""A commit that answers differently when it is asked again.

Runs are repeated until one answer has a majority of all that may be made. "Good" and
any other answer of one commit contradict each other: a run that passes by chance must
not accuse the next commit. What a contradiction comes to is the caller's choice: by
default the commit is skipped, as no wrong answer ever follows from that, and is good
only if every run is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from mxmoe.evals.bisect.step_code import Found
from mxmoe.evals.bisect.step_code import Step
from mxmoe.evals.bisect.step_code import StepCode

DISAGREE = ("skip", "majority", "bad")
"""skip : cannot be tested. majority : as most runs say. bad : one bad run suffices."""


def ask_repeatedly(ask: Callable[[], Found], *, repeat: int, disagree: str) -> Step:
    """Judge a commit up to `repeat` times and say what that comes to.

    `ask` raises `Abort` where nothing was learnt; that ends the search at once.
    """
    runs: list[Found] = []
    for _ in range(repeat):
        runs.append(ask())
        if _settled(runs, repeat=repeat, disagree=disagree):
            break
    return _conclude(runs, disagree)


def _settled(runs: list[Found], *, repeat: int, disagree: str) -> bool:
    counts = Counter(run.code for run in runs)
    if disagree == "bad":
        return StepCode.BAD in counts
    if disagree == "skip" and StepCode.GOOD in counts:
        return len(counts) > 1
    return 2 * max(counts.values()) > repeat


def _conclude(runs: list[Found], disagree: str) -> Step:
    counts = Counter(run.code for run in runs)
    flaky = len(counts) > 1
    code, most = counts.most_common(1)[0]
    if disagree == "bad" and StepCode.BAD in counts:
        code = StepCode.BAD
    elif 2 * most <= len(runs) or (
        disagree == "skip" and flaky and StepCode.GOOD in counts
    ):
        code = StepCode.SKIP
    reasons = [run.reason for run in runs if run.code is code] or [runs[-1].reason]
    reason = reasons[0]
    if flaky:
        said = ", ".join(f"{n} x {c.word}" for c, n in counts.most_common())
        reason = f"flaky ({said}): {reason}"
    return Step(code=code, reason=reason, runs=tuple(runs), flaky=flaky)
