"""The first calls into a candidate: one that cannot be called at all is bad input."""

from __future__ import annotations

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.cases.designed import on_device
from mxmoe.conformance.cases.embedded import EMBEDDED_SHAPE
from mxmoe.conformance.cases.strategies import shapes
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import WHOLE


def shake_hands(subject: Subject) -> None:
    """One small call of each main member; `BadInput` if the candidate raises in it.

    A candidate that cannot be called at all is an error of use, not a verdict.
    """
    if subject.unavailable() is not None:
        return
    refuses = subject.capabilities.refuses_shape
    config = next((c for c in (EMBEDDED_SHAPE, *shapes()) if refuses(c) is None), None)
    if config is None:
        return
    case = Case(config=config, tokens=4)
    data = make_case_data(case, hidden_dtype=subject.arithmetic.output)
    data = on_device(case, data, subject.device)
    try:
        prepared = subject.prepare(data.weights, config, WHOLE)
        if subject.has("forward"):
            subject.call("forward", prepared, data.hidden_states, data.routing)
    except Failure as error:
        raise first_call_failed(subject.spec, str(case), error.text) from error


def first_call_failed(spec: str, case: str, text: str) -> BadInput:
    """The one sentence about a first call that ended in `text`."""
    sentence = " ".join(line.strip() for line in text.splitlines())
    return BadInput(
        f"{spec}: expected a first call on {case} to succeed, found: {sentence}"
    )
