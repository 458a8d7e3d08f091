"""One check on one candidate in this process, without a pytest session.

For the suite's tests of itself: the very functions that pytest collects, over the
same parameters and places, with the outcome as a value.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import math
import tempfile
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import Phase
from hypothesis.errors import FlakyFailure
from torch import get_num_threads
from torch import set_num_threads

from mxmoe.conformance.cases.embedded import write_checkpoint
from mxmoe.conformance.cases.profiles import register_profiles
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.record import Record
from mxmoe.conformance.settings import Settings
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
    "test_l3_laws",
    "test_l4_sharding",
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


def trial(
    check: str, subject: Subject, settings: Settings, *, explain: bool = True
) -> Iterator[Outcome]:
    """Run `check` at each of its parameters and places, one outcome each."""
    function = checks()[check]
    # What a run remembers of a candidate, it remembers by name.
    settings = replace(settings, wrong_outputs=set(), last_prepared={})
    for where, arguments in _repetitions(function, subject, settings):
        judge = Judge(subject, settings, check, Record(searching=not explain), where)
        try:
            function(judge, **arguments)
        except Failure as error:
            failure = judge.complete(error)
            yield Outcome(where, failure.verdict, failure.text, judge)
        except NotJudged as error:
            yield Outcome(where, error.verdict, error.reason, judge)
        except FlakyFailure as group:
            failure = next(e for e in group.exceptions if isinstance(e, Failure))
            yield Outcome(where, failure.verdict, failure.text, judge)
        else:
            notes = judge.record.notes
            verdict = Verdict.QUALITY_NOTE if notes else Verdict.OK
            yield Outcome(where, verdict, "; ".join(notes), judge)


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


@contextlib.contextmanager
def repeatable_settings(
    layers: tuple[int, ...] = (0, 1),
    examples: int | None = None,
    *,
    profile: str = "dev",
    seed: int = 0,
) -> Iterator[Settings]:
    """Settings on the embedded checkpoint under which a trial always goes the same way.

    Draws and the checkpoint follow from `seed`, not from the source of a check; no
    shrinking; time does not end a check. One thread: on small shapes more only wait for
    each other.
    """
    before, threads = hypothesis.settings.get_current_profile_name(), get_num_threads()
    register_profiles()
    chosen = hypothesis.settings.get_profile(profile)
    hypothesis.settings.register_profile(
        "trial",
        chosen,
        max_examples=examples or chosen.max_examples,
        phases=(Phase.explicit, Phase.generate),
    )
    hypothesis.settings.load_profile("trial")
    set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="mxmoe-") as folder:
            write_checkpoint(Path(folder, "default"), seed=seed)
            yield Settings(
                checkpoint_folder=Path(folder, "default"),
                checkpoint_given=False,
                layers=layers,
                seconds_per_check=math.inf,
                seed=seed,
            )
    finally:
        set_num_threads(threads)
        hypothesis.settings.load_profile(before)
