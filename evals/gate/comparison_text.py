"""A comparison of runs, in sentences for a person."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence

from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.gate.comparison import Comparison
from mxmoe.evals.gate.paired import CONFIDENCE
from mxmoe.evals.gate.paired import POWER
from mxmoe.evals.gate.paired import Paired

# Ids on one line; `--json` has them all.
_SHOWN = 12
_VERDICTS = {
    ExitCode.PASS: "not worse",
    ExitCode.FAIL: "WORSE",
    ExitCode.INVALID: "INVALID, nothing was compared",
    ExitCode.INCONCLUSIVE: "INCONCLUSIVE, no drop could have been found",
}


def lines_of(found: Comparison) -> Iterator[str]:
    """What `mxmoe compare` prints."""
    yield from (f"refused  {line}" for line in found.refused)
    yield from (f"across   {line}" for line in found.crossed)
    yield from (f"note     {line}" for line in found.notes)
    if found.paired is not None:
        yield from _paired(found.paired, len(found.baselines))
    yield f"verdict: {_VERDICTS[found.exit_code]}: {found.run}"


def _paired(found: Paired, baselines: int) -> Iterator[str]:
    of = "" if baselines == 1 else f", the mean of {baselines} baselines"
    yield (
        f"correct  {found.baseline_correct} -> {found.run_correct} of {found.asked}{of}"
    )
    yield _flips("lost", found.lost)
    yield _flips("gained", found.gained)
    low, high = (100 * end for end in found.interval)
    yield (
        f"drop     {100 * found.drop:.2f} points "
        f"({100 * CONFIDENCE:.0f} % interval {low:.2f} to {high:.2f})"
    )
    yield (
        f"p        {found.p_worse:.2g} that an equal run looks so much worse "
        f"(two-sided {found.p_different:.2g}); worse from {found.alpha:g} down"
    )
    if found.detectable is not None:
        yield (
            f"power    a drop of {100 * found.detectable:.2f} points would have been "
            f"found in {100 * POWER:.0f} % of such comparisons"
        )


def _flips(word: str, questions: Sequence[str]) -> str:
    ids = ", ".join(str(int(question)) for question in questions[:_SHOWN])
    more = f" and {len(questions) - _SHOWN} more" * (len(questions) > _SHOWN)
    return f"{word:<8} {len(questions)}" + (f": {ids}{more}" if questions else "")
