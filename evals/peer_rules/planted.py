"""What the rules are tried on: the planted faults and the correct variants.

The one file here that knows where they live.
"""

from __future__ import annotations

from collections.abc import Callable

from mxmoe.conformance.faults.catalogue import FAULTS
from mxmoe.conformance.faults.correct import NUMERIC
from mxmoe.conformance.faults.fault import Fault
from mxmoe.conformance.faults.plain import FLOAT32
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.subject import Subject
from mxmoe.kernels.trtllm_gen.plain_loader import LOADER

__all__ = ["FAULTS", "VARIANTS", "Fault", "correct_twin", "faulty"]

VARIANTS: dict[str, Callable[[], Subject]] = {
    name: lambda variant=variant: subject_of(variant)  # type: ignore[misc]
    for name, variant in NUMERIC.items()
}
"""Correct candidates: other orders of addition, finer or rougher arithmetic."""


def faulty(name: str) -> Subject:
    """A fresh candidate with the fault `name`."""
    return subject_of(FAULTS[name].plant())


def correct_twin(subject: Subject) -> Subject:
    """The candidate without a fault that `subject` was made from."""
    if not subject.has("forward"):
        return subject_of(LOADER)
    if subject.arithmetic.name == FLOAT32.capabilities["arithmetic"]:
        return subject_of(FLOAT32)
    return subject_of(PLAIN)
