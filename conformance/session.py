"""From options to a session: candidates loaded, checkpoint opened, all checked.

The command line and the pytest plugin both start here, so that bad input is found,
and said in one sentence, before anything runs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

import torch

from mxmoe.conformance.case import Case
from mxmoe.conformance.case import parse_case
from mxmoe.conformance.designed import make_case_data
from mxmoe.conformance.designed import on_device
from mxmoe.conformance.embedded import EMBEDDED_SHAPE
from mxmoe.conformance.embedded import write_checkpoint
from mxmoe.conformance.judge import Settings
from mxmoe.conformance.places import choose_layers
from mxmoe.conformance.profiles import seconds_per_check
from mxmoe.conformance.registry import bundled_names
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.registry import op_names
from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.strategies import shapes
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.reference.checkpoint import Checkpoint
from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import WHOLE

CANDIDATE_VARIABLE = "MXMOE_CANDIDATE"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user typed, as plain values."""

    candidates: Sequence[str] = ()
    against: str | None = None
    checkpoint: Path | None = None
    layers: str | None = None
    case: str | None = None
    device: str | None = None
    required_class: str | None = None
    run: RunWriter | None = None
    profile: str = "dev"
    b200: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """Everything a run needs. `requested`: the user named the candidates."""

    subjects: tuple[Subject, ...]
    settings: Settings
    requested: bool
    _temporary: ExitStack = field(default_factory=ExitStack, repr=False)

    def close(self) -> None:
        """Remove the temporary checkpoint, if one was made."""
        self._temporary.close()


def open_session(options: Options) -> Session:
    """Load and check everything; raises `BadInput`."""
    check_device(options.device)
    if options.required_class is not None and options.required_class not in ARITHMETIC:
        raise BadInput(
            f"--require-class: expected one of {', '.join(ARITHMETIC)}, "
            f"found {options.required_class!r}"
        )
    case = None if options.case is None else parse_case(options.case)
    with ExitStack() as temporary:
        folder = options.checkpoint or _default_checkpoint(temporary)
        checkpoint = open_checkpoint(folder)
        layers = choose_layers(checkpoint, options.layers)
        if case is not None and case.layer is not None:
            _check_layer(case, checkpoint)
        for layer in layers:
            checkpoint.layer(layer)
        specs, requested = _candidate_specs(options)
        subjects = tuple(_load(spec, options.device) for spec in specs)
        _refuse_equal_names(subjects)
        against = options.against
        other = None if against is None else _load(against, options.device)
        available = [s for s in subjects if s.unavailable() is None]
        settings = Settings(
            checkpoint_folder=folder,
            checkpoint_given=options.checkpoint is not None,
            layers=layers,
            seconds_per_check=seconds_per_check(options.profile, len(available)),
            case=case,
            device=options.device,
            required_class=options.required_class,
            against=other,
            run=options.run,
        )
        return Session(
            subjects=subjects,
            settings=settings,
            requested=requested,
            _temporary=temporary.pop_all(),
        )


def _default_checkpoint(temporary: ExitStack) -> Path:
    made = temporary.enter_context(tempfile.TemporaryDirectory(prefix="mxmoe-"))
    folder = Path(made) / "default"
    write_checkpoint(folder)
    return folder


def _load(spec: str, device: str | None) -> Subject:
    subject = load_candidate(spec, device=device)
    shake_hands(subject)
    return subject


def _check_layer(case: Case, checkpoint: Checkpoint) -> None:
    if case.layer not in range(checkpoint.layers):
        raise BadInput(
            f"--case: expected layer0 to layer{checkpoint.layers - 1}, found {case}"
        )
    case.shard.expert_range(checkpoint.config)


def _candidate_specs(options: Options) -> tuple[list[str], bool]:
    if options.b200:
        for option, given in (
            ("--candidate", options.candidates),
            ("--device", options.device),
        ):
            if given:
                raise BadInput(
                    f"--b200: expected no {option}, it chooses both, found {given!r}"
                )
        return op_names(), False
    if options.candidates:
        return list(dict.fromkeys(options.candidates)), True
    from_environment = os.environ.get(CANDIDATE_VARIABLE, "").split()
    if from_environment:
        return from_environment, True
    return bundled_names(), False


def check_device(device: str | None) -> None:
    """Raise `BadInput` unless this machine has `device`."""
    if device is None:
        return
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise BadInput(f"--device: expected cpu or cuda, found {device!r}") from error
    if kind not in ("cpu", "cuda"):
        raise BadInput(f"--device: expected cpu or cuda, found {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device: expected a device of this machine, found no cuda")


def _refuse_equal_names(subjects: Sequence[Subject]) -> None:
    seen: dict[str, str] = {}
    for subject in subjects:
        if subject.name in seen:
            raise BadInput(
                f"{subject.spec}: expected a name of its own, found {subject.name!r}, "
                f"which {seen[subject.name]} has as well"
            )
        seen[subject.name] = subject.spec


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
        sentence = " ".join(line.strip() for line in error.text.splitlines())
        raise BadInput(
            f"{subject.spec}: expected a first call on {case} to succeed, "
            f"found: {sentence}"
        ) from error
