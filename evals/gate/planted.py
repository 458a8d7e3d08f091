"""A correct candidate with a fault of the catalogue planted in it, for the gate."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

from mxmoe.conformance.faults.catalogue import installed_faults
from mxmoe.conformance.faults.fault import Fault
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import NotJudged
from mxmoe.reference.errors import BadInput


def load_base(spec: str, *, device: str | None) -> Subject:
    """The candidate that `spec` names; "plain" is the suite's own.

    Faults lie in that one which no other can be given.
    """
    if spec == PLAIN.name:
        return replace(subject_of(PLAIN, PLAIN.name), device_request=device)
    return load_candidate(spec, device=device)


def plant(name: str, base: Subject) -> Subject:
    """`base` with the fault `name`.

    A fault that can be in any candidate is put into `base`; a faulty loader of the
    layout of `base` prepares the weights that `base` then computes with. Raises
    `BadInput` for an unknown name, and for a fault inside of another candidate; one
    that lies inside of the suite's plain candidate can be planted in that one only.
    """
    fault = _named(name)
    if fault.spoil is not None:
        try:
            return subject_of(fault.spoil(base.candidate), base.spec)
        except NotJudged as reason:
            raise BadInput(f"fault {name}: {base.spec} {reason}") from reason
    planted = subject_of(fault.plant(), f"fault:{name}")
    if planted.has("forward"):
        if base.candidate is PLAIN:
            return planted
        raise BadInput(
            f"fault {name}: expected one that {base.spec} can have, found one inside "
            f"of our own plain candidate; --candidate {PLAIN.name} takes it"
        )
    if planted.layout != base.layout:
        raise BadInput(
            f"fault {name}: expected a loader of the layout of {base.spec}, "
            "found another layout's"
        )

    def prepare(*arguments: Any) -> dict[str, Any]:
        # A loader prepares the tensors of its layout; what else the candidate keeps
        # beside them is right.
        right = base.candidate.prepare(*arguments)
        return {**right, **planted.candidate.prepare(*arguments)}

    members = {"prepare": prepare}
    if base.has("load"):
        members["load"] = base.candidate.load
    return subject_of(changed(base.candidate, **members), base.spec)


def _named(name: str) -> Fault:
    faults = installed_faults()
    if name not in faults:
        near = ", ".join(difflib.get_close_matches(name, faults, n=3, cutoff=0.5))
        raise BadInput(
            f"fault: expected a name of the catalogue, found {name!r}"
            + (f"; close to {near}" if near else "")
        )
    return faults[name]
