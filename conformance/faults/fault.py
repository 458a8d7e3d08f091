"""What a planted fault is, and how one is declared."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.judging.trial import checks
from mxmoe.conformance.judging.trial import level_of
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.errors import BadInput

Plant = Callable[..., object]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing wrong in a candidate that is otherwise right.

    incident : ``owner/repository#number`` where it was seen, or "" if it was not.
    check : the check, at `level`, that must find it, with `verdict`. says : words that
    its text must hold, where the suite claims to name the cause. plant : makes a fresh
    candidate. spoil : makes one of any correct candidate; None where the fault lies
    inside of the one that `plant` makes.
    """

    name: str
    definition: str
    incident: str
    level: str
    check: str
    plant: Callable[[], object]
    spoil: Callable[[object], object] | None = None
    says: tuple[str, ...] = ()
    verdict: Verdict = Verdict.MISMATCH


def read_fault(
    plant: Plant,
    *,
    check: str,
    level: str | None = None,
    incident: str = "",
    says: tuple[str, ...] = (),
    verdict: Verdict = Verdict.MISMATCH,
) -> Fault:
    """A fault from a function: its name is the fault's, its docstring the definition.

    A function without an argument makes a candidate with the fault; a function with
    one spoils the correct candidate that it is given. `BadInput` for a check that does
    not exist.
    """
    if check not in checks():
        raise BadInput(
            f"{plant.__name__}.check: expected the name of a check such as "
            f"test_output_stays_within_the_bound, found {check!r}"
        )
    generic = len(inspect.signature(plant).parameters) == 1
    return Fault(
        name=plant.__name__,
        definition=(plant.__doc__ or "").strip(),
        incident=incident,
        level=level or level_of(check),
        check=check,
        plant=functools.partial(plant, PLAIN) if generic else plant,
        spoil=plant if generic else None,
        says=says,
        verdict=verdict,
    )


def faults_of(level: str, check: str) -> Callable[..., Callable[[Plant], Fault]]:
    """A decorator for the functions that `read_fault` reads."""

    def fault(
        incident: str = "", *says: str, verdict: Verdict = Verdict.MISMATCH
    ) -> Callable[[Plant], Fault]:
        def named(plant: Plant) -> Fault:
            return read_fault(
                plant,
                check=check,
                level=level,
                incident=incident,
                says=says,
                verdict=verdict,
            )

        return named

    return fault


def faults_in(found: Any) -> list[Fault]:
    """What an entry point of ``mxmoe.faults`` holds: a module, or one fault.

    Of a module every `Fault` is taken, and every function of its own that has an
    attribute `check`. Such a function needs no import of ours; `incident`, `says` and
    `verdict` are optional attributes.
    """
    if not inspect.ismodule(found):
        return [_as_fault(found)]
    return [
        _as_fault(member)
        for member in vars(found).values()
        if isinstance(member, Fault)
        or (
            inspect.isfunction(member)
            and hasattr(member, "check")
            and member.__module__ == found.__name__
        )
    ]


def _as_fault(found: Any) -> Fault:
    if isinstance(found, Fault):
        return found
    if not inspect.isfunction(found) or not hasattr(found, "check"):
        raise BadInput(
            "fault: expected a function with an attribute `check`, the name of the "
            f"check that must find it, found {found!r:.80}"
        )
    return read_fault(
        found,
        check=found.check,
        incident=getattr(found, "incident", ""),
        says=tuple(getattr(found, "says", ())),
        verdict=Verdict(getattr(found, "verdict", Verdict.MISMATCH)),
    )
