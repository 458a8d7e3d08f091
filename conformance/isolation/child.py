"""The child: loads the candidate by its spec, judges what it is asked, answers."""

from __future__ import annotations

import faulthandler
import os
import signal
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import fields
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from hypothesis import settings as hypothesis_settings

from mxmoe.conformance.bundles.bundle import read_bundle
from mxmoe.conformance.bundles.repetitions import arguments_of
from mxmoe.conformance.bundles.repetitions import find_check
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.profiles import DEFAULT
from mxmoe.conformance.cases.profiles import SECONDS_PER_CHECK
from mxmoe.conformance.cases.profiles import register_profiles
from mxmoe.conformance.cases.profiles import seconds_per_check
from mxmoe.conformance.isolation.beacon import Beacon
from mxmoe.conformance.isolation.messages import BROKEN
from mxmoe.conformance.isolation.messages import FAILED
from mxmoe.conformance.isolation.messages import NOT_JUDGED
from mxmoe.conformance.isolation.messages import PASSED
from mxmoe.conformance.isolation.messages import Answer
from mxmoe.conformance.isolation.messages import Question
from mxmoe.conformance.isolation.messages import receive_json
from mxmoe.conformance.isolation.messages import send_json
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.record import Record
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.suite.handshake import shake_hands
from mxmoe.conformance.time_limit import CALL_SECONDS
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.errors import BadInput

# Importing a kernel library and compiling on a busy machine.
LOAD_SECONDS = 600.0
# Between two calls the suite builds a case or computes the truth, in float64 on the
# CPU: ten times what a call on the same case may take is a device that never answers.
_BETWEEN_CALLS = 10.0
# The traceback of a native call that hangs is written just before the host ends it.
_TRACEBACK_SECONDS = 1.0


def main(connection: Connection) -> None:
    """Answer questions until nobody asks any more."""
    plan = receive_json(connection)
    os.environ.update(plan["environment"])
    _write_to(Path(plan["log"]))
    # Ctrl-C reaches the whole group; the host ends this process itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    torch.set_num_threads(plan["threads"])
    register_profiles()
    known = plan["profile"] if plan["profile"] in SECONDS_PER_CHECK else DEFAULT
    hypothesis_settings.load_profile(known)
    beacon = Beacon(Path(plan["beacon"]))
    beacon.show("load", calling=True, seconds=LOAD_SECONDS)
    try:
        subject, settings = _open(plan, beacon)
    except BadInput as error:
        send_json(connection, {"bad_input": str(error)})
        return
    hello = {"device": str(subject.device), "unavailable": subject.unavailable()}
    send_json(connection, hello)
    while True:
        try:
            question = Question.receive(connection)
        except (EOFError, OSError):
            return
        beacon.show("load", calling=False, seconds=_BETWEEN_CALLS * subject.limit)
        answer = _answer(question, subject, settings)
        answer.send(connection)
        if answer.leaving:
            os._exit(0)


@dataclass(frozen=True, kw_only=True)
class WatchedSubject(Subject):
    """Shows every call on the beacon, and waits for the device inside the call."""

    beacon: Beacon

    @property
    def limit(self) -> float:
        """Seconds that one call may take."""
        return self.call_seconds or CALL_SECONDS

    def call(self, member: str, *arguments: Any, **options: Any) -> Any:
        """As `Subject.call`; a native call that hangs leaves a traceback."""
        show = partial(self.beacon.show, member, aside=self.aside)
        show(calling=True, seconds=self.limit)
        faulthandler.dump_traceback_later(self.limit + _TRACEBACK_SECONDS)
        try:
            return super().call(member, *arguments, **options)
        finally:
            faulthandler.cancel_dump_traceback_later()
            show(calling=False, seconds=_BETWEEN_CALLS * self.limit)

    def finish(self) -> None:
        """An illegal access or a hang belongs to the call that began it.

        Only the current stream: what a candidate left running on another one must
        not be waited for, or its missing synchronisation could not be seen.
        """
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()


def _write_to(log: Path) -> None:
    """Standard output and error of this process, native code included, go to `log`."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _open(plan: Mapping[str, Any], beacon: Beacon) -> tuple[WatchedSubject, Settings]:
    subject = _load(plan["spec"], plan, beacon)
    if plan["greet"]:
        shake_hands(subject)
    against = plan["against"]
    settings = Settings(
        checkpoint_folder=Path(plan["checkpoint_folder"]),
        checkpoint_given=plan["checkpoint_given"],
        kept=None if plan["kept"] is None else read_bundle(Path(plan["kept"])).kept,
        layers=tuple(plan["layers"]),
        seconds_per_check=seconds_per_check(plan["profile"], 1),
        case=None if plan["case"] is None else parse_case(plan["case"]),
        device=plan["device"],
        isolate=plan["isolate"],
        required_class=plan["required_class"],
        against=None if against is None else _load(against, plan, beacon),
    )
    return subject, settings


def _load(spec: str, plan: Mapping[str, Any], beacon: Beacon) -> WatchedSubject:
    found = load_candidate(spec, device=plan["device"])
    values = {field.name: getattr(found, field.name) for field in fields(Subject)}
    return WatchedSubject(
        **values | {"call_seconds": plan["call_seconds"]}, beacon=beacon
    )


def _answer(question: Question, subject: WatchedSubject, settings: Settings) -> Answer:
    """Judge, and put the conclusion and the record into words."""
    repetition = question.repetition
    record = Record(searching=question.searching, telling=question.telling)
    if question.case is not None:
        settings = replace(settings, case=parse_case(question.case))
    judge = Judge(
        subject,
        settings,
        repetition.check,
        record,
        place=repetition.place,
        parameters=repetition.parameters,
    )
    outcome, verdict, text = PASSED, "", ""
    try:
        arguments = arguments_of(repetition, subject, settings)
        find_check(repetition.check)(judge, **arguments)
    except Failure as error:
        failure = judge.complete(error)
        outcome, verdict, text = FAILED, str(failure.verdict), failure.text
    except NotJudged as error:
        outcome, verdict, text = NOT_JUDGED, str(error.verdict), error.reason
    except Exception as error:
        outcome, text = BROKEN, traceback.format_exc()
        if not _usable(subject.device):
            member = subject.beacon.read().what
            lines = f"after {member}: {type(error).__name__}: {error}"
            failure = judge.complete(Failure(Verdict.CRASH, lines))
            outcome, verdict, text = FAILED, str(failure.verdict), failure.text
    facts, tensors = record.evidence or (None, {})
    return Answer(
        outcome=outcome,
        verdict=verdict,
        text=text,
        case=record.case,
        worst=record.worst,
        measured=tuple((*key, worst) for key, worst in record.measured.items()),
        reached=tuple(asdict(part) for part in record.reached),
        examples=record.examples,
        notes=tuple(record.notes),
        facts=facts,
        leaving=outcome != PASSED and not _usable(subject.device),
        tensors={} if question.searching else _readable(tensors),
    )


def _usable(device: torch.device) -> bool:
    """Whether the device still works: an illegal access spoils a context for good."""
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
    except Exception:
        return False
    return True


def _readable(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those that can be copied: not the ones on a device that is lost."""
    found = {}
    for name, tensor in tensors.items():
        try:
            found[name] = tensor.detach().cpu()
        except RuntimeError:
            continue
    return found
