"""One check on one candidate in this process, without a pytest session.

For the suite's tests of itself: the very functions that pytest collects, over the
same parameters and places, with the outcome as a value.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis.errors import FlakyFailure

from mxmoe.conformance.judge import Judge
from mxmoe.conformance.judge import Settings
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged
from mxmoe.conformance.verdict import Verdict

CHECK_FILES = (
    "test_l0_formats",
    "test_l1_bytes",
    "test_l2_routing",
    "test_l3_numbers",
    "test_l3_state",
)


@dataclass(frozen=True)
class Outcome:
    """What one repetition of a check concluded; `text` is what a person reads."""

    where: str
    verdict: Verdict
    text: str
    judge: Judge


def checks() -> dict[str, Callable[..., None]]:
    """Every check that needs no option, by name."""
    found = {}
    for file in CHECK_FILES:
        module = importlib.import_module(f"mxmoe.conformance.checks.{file}")
        for name, function in vars(module).items():
            marks = {m.name for m in getattr(function, "pytestmark", [])}
            if name.startswith("test_") and "needs_option" not in marks:
                found[name] = function
    return found


def level_of(check: str) -> str:
    """``L3``: the level that the check's file declares."""
    function = checks()[check]
    module = importlib.import_module(function.__module__)
    return str(next(m.args[0] for m in module.pytestmark if m.name == "level"))


def trial(check: str, subject: Subject, settings: Settings) -> Iterator[Outcome]:
    """Run `check` at each of its parameters and places, one outcome each."""
    function = checks()[check]
    for where, arguments in _repetitions(function, subject, settings):
        judge = Judge(subject, settings, check)
        try:
            function(judge, **arguments)
        except Failure as error:
            outcome = Outcome(where, error.verdict, error.text, judge)
        except NotJudged as error:
            outcome = Outcome(where, error.verdict, error.reason, judge)
        except FlakyFailure as group:
            inner = next(e for e in group.exceptions if isinstance(e, Failure))
            outcome = Outcome(where, inner.verdict, inner.text, judge)
        else:
            notes = judge.record.notes
            verdict = Verdict.QUALITY_NOTE if notes else Verdict.OK
            outcome = Outcome(where, verdict, "; ".join(notes), judge)
        yield outcome


def _repetitions(
    function: Any, subject: Subject, settings: Settings
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each combination of parameters and place, as pytest would make them."""
    axes: list[Sequence[tuple[str, dict[str, Any]]]] = []
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            name, values = mark.args
            axes.append([(str(value), {name: value}) for value in values])
    if hasattr(function, "places"):
        places = function.places(settings, subject)
        axes.append([(place.id, {"place": place.value}) for place in places])
    for combination in itertools.product(*axes):
        arguments = {n: v for _, named in combination for n, v in named.items()}
        yield "-".join(word for word, _ in combination), arguments
