"""What the user asked for, the same for every check of a run."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field
from functools import cached_property
from pathlib import Path

import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.kept_inputs import KeptInputs
from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.subject import Subject
from mxmoe.reference.checkpoint import Checkpoint
from mxmoe.reference.checkpoint import open_checkpoint


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user asked for, the same for every check of a run.

    seed : of the cases that are drawn; None leaves that to Hypothesis.
    kept : the inputs of a bundle that is replayed.
    """

    checkpoint_folder: Path
    checkpoint_given: bool
    layers: tuple[int, ...]
    seconds_per_check: float
    case: Case | None = None
    device: str | None = None
    isolate: bool | None = None
    required_class: str | None = None
    against: Subject | None = None
    run: RunWriter | None = None
    seed: int | None = None
    kept: KeptInputs | None = None
    wrong_outputs: set[str] = field(default_factory=set)
    last_prepared: dict[tuple[str, str], dict[str, torch.Tensor]] = field(
        default_factory=dict
    )

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint under test, opened."""
        if self.kept is not None:
            return self.kept.checkpoint
        return open_checkpoint(self.checkpoint_folder)
