"""Every installed fault, by name, in the order of the levels that must find them.

A family of faults is an entry point of the group ``mxmoe.faults``: a module, or one
fault; see `fault.faults_in` for what of a module counts.
``mxmoe check -c mxmoe.conformance.faults.catalogue:drop_limit`` judges a candidate
that has one of them.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

from mxmoe.conformance.faults.fault import Fault
from mxmoe.conformance.faults.fault import faults_in
from mxmoe.reference.errors import BadInput

GROUP = "mxmoe.faults"


def installed_faults() -> dict[str, Fault]:
    """Load every entry point; `BadInput` for one that does not load or is no fault."""
    found: list[Fault] = []
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            found += faults_in(entry.load())
        except Exception as error:
            raise BadInput(
                f"{GROUP}: {entry.name} = {entry.value}: expected a module with "
                f"faults, found {type(error).__name__}: {error}"
            ) from error
    return by_name(sorted(found, key=lambda fault: fault.level))


def by_name(faults: Iterable[Fault]) -> dict[str, Fault]:
    """`BadInput` where two have the same name; a family may import from another."""
    found: dict[str, Fault] = {}
    for fault in faults:
        if found.setdefault(fault.name, fault) is not fault:
            raise BadInput(
                f"{GROUP}: expected a name of its own for each fault, "
                f"found {fault.name!r} twice"
            )
    return found


FAULTS: dict[str, Fault] = installed_faults()


def __getattr__(name: str) -> object:
    if name not in FAULTS:
        raise AttributeError(f"no fault is called {name!r}")
    return FAULTS[name].plant()
