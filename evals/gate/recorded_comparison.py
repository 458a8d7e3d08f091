"""A comparison read back from the run directory that `mxmoe compare --out` left."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mxmoe.evals.gate.comparison import Comparison
from mxmoe.evals.gate.flips import Flip
from mxmoe.evals.gate.paired import Paired
from mxmoe.reference.errors import BadInput


def read_comparison(facts: object, where: str) -> Comparison:
    """Turn `Comparison.as_json` back; `BadInput` names `where` if it is damaged."""
    try:
        assert isinstance(facts, Mapping)
        return Comparison(
            baselines=tuple(map(Path, facts["baselines"])),
            run=Path(facts["run"]),
            refused=tuple(map(str, facts["refused"])),
            crossed=tuple(map(str, facts["across"])),
            notes=tuple(map(str, facts["notes"])),
            paired=_paired(facts) if "asked" in facts else None,
            flips=tuple(Flip(**flip) for flip in facts.get("flips", ())),
        )
    except (AssertionError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadInput(
            f"{where}: expected a comparison, found {type(error).__name__}: {error}"
        ) from error


def _paired(facts: Mapping[str, Any]) -> Paired:
    low, high = map(_number, facts["interval"])
    power = facts["detectable"]
    return Paired(
        asked=int(facts["asked"]),
        baseline_correct=int(facts["baseline_correct"]),
        run_correct=int(facts["run_correct"]),
        lost=tuple(str(int(question)) for question in facts["lost"]),
        gained=tuple(str(int(question)) for question in facts["gained"]),
        alpha=_number(facts["alpha"]),
        p_worse=_number(facts["p_worse"]),
        p_different=_number(facts["p_different"]),
        interval=(low, high),
        detectable=None if power is None else _number(power),
        mean_drop=_number(facts["drop"]),
    )


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, found {number}")
    return number
