"""One failure again: the check, the case and the inputs of a bundle."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mxmoe.conformance.bundles.bundle import Bundle
from mxmoe.conformance.bundles.bundle import read_bundle
from mxmoe.conformance.bundles.repetitions import arguments_of
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.embedded import write_checkpoint
from mxmoe.conformance.cases.profiles import DEFAULT
from mxmoe.conformance.cases.profiles import register_profiles
from mxmoe.conformance.cases.profiles import seconds_per_check
from mxmoe.conformance.escape import printable
from mxmoe.conformance.isolation.judge import judge_of
from mxmoe.conformance.isolation.judge import make_check
from mxmoe.conformance.isolation.opening import child_plan
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.suite.session import Options
from mxmoe.conformance.suite.session import check_device
from mxmoe.conformance.suite.session import load_subjects
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What the check says now."""

    name: str
    verdict: Verdict
    text: str

    def conclusion(self, bundle: Bundle) -> tuple[ExitCode, str]:
        """The exit code and the line that begins ``verdict:``."""
        what = f"{self.name}: {bundle.repetition.check}"
        if self.verdict.failed:
            same = self.verdict is bundle.verdict and self.text == bundle.text
            how = "as it did" if same else f"(in the bundle: {bundle.verdict})"
            return ExitCode.FAIL, f"verdict: FAIL {what} fails {how}"
        if not self.verdict.judged:
            return ExitCode.INVALID, f"verdict: INVALID {what} was not judged"
        return ExitCode.PASS, f"verdict: PASS {what} passes now"


def run_replay(
    folder: Path,
    *,
    candidate: str | None = None,
    checkpoint: Path | None = None,
    device: str | None = None,
    isolate: bool | None = None,
    as_json: bool = False,
) -> ExitCode:
    """Judge again and print; `BadInput` before anything has run."""
    bundle = read_bundle(folder)
    options = Options(
        candidates=(candidate or bundle.spec,),
        against=bundle.against,
        checkpoint=checkpoint,
        device=device or bundle.device,
        isolate=bundle.isolate if isolate is None else isolate,
    )
    found = replay_bundle(bundle, options)
    code, line = found.conclusion(bundle)
    if as_json:
        document = {
            "verdict": line,
            "exit_code": int(code),
            "bundle": str(folder),
            "candidate": found.name,
            "now": str(found.verdict),
            "text": found.text,
        }
        print(json.dumps(document))
    else:
        print(printable("\n".join(filter(None, (found.text, line)))))
    return code


def replay_bundle(bundle: Bundle, options: Options) -> Replayed:
    """Make the check of `bundle` again, of the candidate in `options`.

    Raises `BadInput` before anything has run. What the candidate prints goes to
    standard error.
    """
    check_device(options.device)
    register_profiles()
    with ExitStack() as temporary, contextlib.redirect_stdout(sys.stderr):
        judge = _judge(bundle, options, temporary)
        return _judged(judge, bundle)


def _judge(bundle: Bundle, options: Options, temporary: ExitStack) -> Judge:
    given = bundle.checkpoint_folder is not None
    folder = options.checkpoint or Path(bundle.checkpoint_folder or "")
    kept = bundle.kept if options.checkpoint is None else None
    if not given and options.checkpoint is None:
        made = tempfile.TemporaryDirectory(prefix="mxmoe-")
        folder = Path(temporary.enter_context(made)) / "default"
        write_checkpoint(folder)
    if kept is None and not folder.is_dir():
        raise BadInput(
            f"{bundle.folder}: expected --checkpoint, as the bundle's inputs were too "
            f"large to keep; found no folder {folder}"
        )
    plan = child_plan(
        checkpoint_folder=folder,
        checkpoint_given=given,
        layers=bundle.layers,
        device=options.device,
        isolate=options.isolate,
        case=bundle.case,
        against=options.against,
        kept=None if kept is None else bundle.folder,
    )
    against = [] if options.against is None else [options.against]
    subject, *others = load_subjects(
        [*options.candidates, *against], options, plan, temporary
    )
    settings = Settings(
        checkpoint_folder=folder,
        checkpoint_given=given,
        layers=bundle.layers,
        seconds_per_check=seconds_per_check(DEFAULT, 1),
        case=None if bundle.case is None else parse_case(bundle.case),
        device=options.device,
        isolate=options.isolate,
        against=others[0] if others else None,
        kept=kept,
    )
    repetition = bundle.repetition
    return judge_of(
        subject,
        settings,
        repetition.check,
        place=repetition.place,
        parameters=repetition.parameters,
    )


def _judged(judge: Judge, bundle: Bundle) -> Replayed:
    name = judge.subject.name
    reason = judge.subject.unavailable()
    if reason is not None:
        return Replayed(name=name, verdict=Verdict.NOT_RUN, text=f"not run: {reason}")
    try:
        make_check(
            judge, arguments_of(bundle.repetition, judge.subject, judge.settings)
        )
    except Failure as error:
        failure = judge.complete(error)
        return Replayed(name=name, verdict=failure.verdict, text=failure.text)
    except NotJudged as error:
        text = f"{error.verdict}: {error.reason}"
        return Replayed(name=name, verdict=error.verdict, text=text)
    return Replayed(name=name, verdict=Verdict.OK, text="")
