"""The history for a person and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mxmoe.evals.gate.cusum import ALARM
from mxmoe.evals.history.scan import Row
from mxmoe.evals.history.scan import Scanned
from mxmoe.evals.history.trend import Trend

_BARS = "▁▂▃▄▅▆▇█"
# Nights in a sparkline: one line of a terminal.
_SHOWN = 60
_SHORT = 12  # digits of a hash


def lines_of(scanned: Scanned, found: Sequence[Trend], *, last: int) -> Iterator[str]:
    """A block for each configuration, with its `last` runs, then what was damaged."""
    for trend in found:
        yield from _block(trend, last)
        yield ""
    for folder, why in scanned.damaged:
        yield f"damaged {folder}: {why}"
    yield (
        f"{len(scanned.rows)} runs of the gate, {len(scanned.damaged)} damaged, "
        f"{scanned.others} others"
    )


def as_json(scanned: Scanned, found: Sequence[Trend]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "configurations": [_facts(trend) for trend in found],
        "damaged": [{"folder": f, "why": why} for f, why in scanned.damaged],
        "others": scanned.others,
    }


def _facts(trend: Trend) -> dict[str, Any]:
    return {
        "runs": [asdict(row) for row in trend.rows],
        "full": len(trend.scored),
        "baseline": trend.baseline,
        "missing": trend.missing,
        "cusum": list(trend.sums),
        "began": trend.began and trend.began.folder,
        "seen": trend.seen and trend.seen.folder,
    }


def _block(trend: Trend, last: int) -> Iterator[str]:
    one = trend.rows[0]
    fault = f" with fault {one.fault}" if one.fault else ""
    yield (
        f"{one.task}: {one.candidate}{fault}, {one.dtype}, {one.device}, "
        f"protocol {one.protocol_sha256[:_SHORT]}"
    )
    for row in trend.rows[-last:]:
        yield _line(row)
    if trend.scored:
        yield f"  trend  {sparkline([row.correct for row in trend.scored])}"
    yield f"  {_said(trend)}"


def _line(row: Row) -> str:
    score = f"{row.correct} of {row.answered}"
    early = "" if row.answered == row.asked else "  stopped early"
    return f"  {row.started}  {row.verdict:<12} {score:>12}  {row.folder}{early}"


def _said(trend: Trend) -> str:
    if trend.began is not None and trend.seen is not None:
        return (
            f"DROP since {trend.began.started} ({trend.began.folder}), "
            f"seen with {trend.seen.folder}"
        )
    if trend.missing:
        return (
            f"no change can be found yet: {trend.missing} more full runs "
            f"({trend.baseline} are the baseline)"
        )
    return f"no drop; CUSUM {trend.sums[-1]:.1f}, alarm at {ALARM:g}"


def sparkline(counts: Sequence[int]) -> str:
    """The last counts as bars, and their ends; equal ones are a flat line."""
    low, high = min(counts), max(counts)
    step = (high - low) / (len(_BARS) - 1) or 1
    bars = "".join(_BARS[int((count - low) / step)] for count in counts[-_SHOWN:])
    return f"{bars}  {low}..{high}"
