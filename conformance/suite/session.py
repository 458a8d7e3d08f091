"""From options to a session: candidates loaded, checkpoint opened, all checked.

The command line and the pytest plugin both start here, so that bad input is found,
and said in one sentence, before anything runs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import field
from datetime import UTC
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.embedded import write_checkpoint
from mxmoe.conformance.cases.profiles import seconds_per_check
from mxmoe.conformance.isolation.host import Losses
from mxmoe.conformance.isolation.opening import child_plan
from mxmoe.conformance.isolation.opening import open_isolated
from mxmoe.conformance.registry import bundled_names
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.registry import op_names
from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.suite.expected import Expected
from mxmoe.conformance.suite.expected import read_expected
from mxmoe.conformance.suite.handshake import shake_hands
from mxmoe.conformance.suite.places import choose_layers
from mxmoe.reference.checkpoint import Checkpoint
from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import ARITHMETIC

CANDIDATE_VARIABLE = "MXMOE_CANDIDATE"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user typed, as plain values.

    isolate : judge candidates in processes of their own. None: if one is on a GPU.
    """

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
    isolate: bool | None = None
    expected: Path | None = None
    lenient_expected: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """Everything a run needs. `requested`: the user named the candidates."""

    subjects: tuple[Subject, ...]
    settings: Settings
    requested: bool
    expected: Expected | None = None
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
    expected = _expected(options)
    with ExitStack() as temporary:
        folder = options.checkpoint or _default_checkpoint(temporary)
        checkpoint = open_checkpoint(folder)
        layers = choose_layers(checkpoint, options.layers)
        if case is not None and case.layer is not None:
            _check_layer(case, checkpoint)
        for layer in layers:
            checkpoint.layer(layer)
        specs, requested = _candidate_specs(options)
        against = [] if options.against is None else [options.against]
        plan = child_plan(
            checkpoint_folder=folder,
            checkpoint_given=options.checkpoint is not None,
            layers=layers,
            device=options.device,
            isolate=options.isolate,
            case=options.case,
            required_class=options.required_class,
            against=options.against,
        )
        loaded = load_subjects([*specs, *against], options, plan, temporary)
        subjects = tuple(loaded[: len(specs)])
        _refuse_equal_names(subjects)
        available = [s for s in subjects if s.unavailable() is None]
        settings = Settings(
            checkpoint_folder=folder,
            checkpoint_given=options.checkpoint is not None,
            layers=layers,
            seconds_per_check=seconds_per_check(options.profile, len(available)),
            case=case,
            device=options.device,
            isolate=options.isolate,
            required_class=options.required_class,
            against=loaded[-1] if against else None,
            run=options.run,
        )
        return Session(
            subjects=subjects,
            settings=settings,
            requested=requested,
            expected=expected,
            _temporary=temporary.pop_all(),
        )


def _expected(options: Options) -> Expected | None:
    if options.expected is None:
        if options.lenient_expected:
            raise BadInput("--lenient-expected: expected --expected as well")
        return None
    found = read_expected(options.expected, lenient=options.lenient_expected)
    found.check_dates(datetime.now(UTC).date())
    return found


def _default_checkpoint(temporary: ExitStack) -> Path:
    made = temporary.enter_context(tempfile.TemporaryDirectory(prefix="mxmoe-"))
    folder = Path(made) / "default"
    write_checkpoint(folder)
    return folder


def load_subjects(
    specs: Sequence[str],
    options: Options,
    plan: Mapping[str, Any],
    temporary: ExitStack,
) -> list[Subject]:
    """The candidates, in this process or in their own, which end with `temporary`."""
    isolated = _isolated(specs, options, plan, temporary)
    return isolated or [_load(spec, options.device) for spec in specs]


def _isolated(
    specs: Sequence[str],
    options: Options,
    plan: Mapping[str, Any],
    temporary: ExitStack,
) -> list[Subject] | None:
    """All of them in processes of their own, or None where that was not asked for.

    Without a wish it is so if one of them is on a GPU, which one of their own
    processes has found out: an import that crashes is to be survived as well.
    """
    wish = options.isolate
    gpu = options.device != "cpu" and torch.cuda.is_available()
    if wish is False or (wish is None and not gpu):
        return None
    losses, found = Losses(), list[Subject]()
    with ExitStack() as hosts:
        for spec in specs:
            subject = open_isolated(spec, plan, losses)
            hosts.callback(subject.host.close)
            found.append(subject)
        if wish is None and not any(s.device.type == "cuda" for s in found):
            return None
        temporary.enter_context(hosts.pop_all())
    return found


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
