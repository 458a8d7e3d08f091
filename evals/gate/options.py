"""What `mxmoe gate` was asked for, and the candidate that it names."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path

from mxmoe.conformance.subject import Subject
from mxmoe.evals.gate.planted import load_base
from mxmoe.evals.gate.planted import plant
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.grade_school.task import NAME as GRADE_SCHOOL
from mxmoe.evals.inside.load import AUTO
from mxmoe.reference.types import MoEConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """data : where the task's questions are, if it ships none. threshold : in percent,
    in the place of the reference's score; None takes the reference.
    """

    candidate: str
    fault: str | None = None
    task: str = GRADE_SCHOOL
    data: Path | None = None
    model: Path = FOLDER
    threshold: float | None = None
    dtype: str = "float32"
    device: str = "cpu"
    batch: int = 64
    full: bool = False


def load_subject(options: Options) -> Subject:
    """The candidate, with its fault planted; `BadInput` where that cannot be."""
    # Which GPU is each layer's own; here only that it is one.
    device = "cuda" if options.device == AUTO else options.device
    subject = load_base(options.candidate, device=device)
    if options.fault is None:
        return subject
    return replace(plant(options.fault, subject), device_request=device)


def cannot_run(subject: Subject, config: MoEConfig) -> str | None:
    """Why the candidate cannot run this model here, in one sentence, or None."""
    reason = subject.unavailable() or subject.capabilities.refuses_shape(config)
    return reason and f"the candidate cannot run here: {reason}"
