"""``mxmoe bisect-step``: judge the current commit, in git bisect's own exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any

import typer
from typer.core import TyperCommand

from mxmoe.conformance.commands.options import AsDocument
from mxmoe.conformance.commands.options import OwnDevice
from mxmoe.conformance.verdict import ExitCode

if TYPE_CHECKING:
    from mxmoe.evals.bisect.request import Request
    from mxmoe.evals.bisect.step_code import Step


class StepCommand(TyperCommand):
    """A wrong option exits with 129, not with 2, which git takes for a bad commit."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse; every usage error gets an exit code that stops the bisection."""
        try:
            return super().make_context(*arguments, **options)
        except Exception as error:
            # A usage error of click, which typer may bring along under another name.
            if getattr(error, "exit_code", None) == ExitCode.USAGE:
                error.__dict__["exit_code"] = 129  # StepCode.USAGE, without torch
            raise


def bisect_step(
    candidate: Annotated[
        str | None,
        typer.Option(
            "--candidate",
            "-c",
            metavar="SPEC",
            help="path/file.py:attr in the bisected tree. Default: the bundle's.",
        ),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="judge by the checks whose name matches"),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="judge by the failure that a bundle repeats"),
    ] = None,
    score: Annotated[
        bool,
        typer.Option(
            "--score",
            help="judge by the score on grade_school: half way between the ends",
        ),
    ] = False,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="a run directory or bundle that shows the fault. Default: what the "
            "bad end shows.",
        ),
    ] = None,
    build: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="shell command to run first; fails: 125"),
    ] = None,
    build_limit: Annotated[
        float, typer.Option(metavar="SECONDS", help="for --build; over it: 125")
    ] = 3600.0,
    time_limit: Annotated[
        float, typer.Option(metavar="SECONDS", help="for judging the commit once")
    ] = 600.0,
    on_timeout: Annotated[
        str, typer.Option(help="what running into it says: skip or bad")
    ] = "skip",
    repeat: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="judge until most of so many agree. Default: 3, for --score 1.",
        ),
    ] = None,
    disagree: Annotated[
        str,
        typer.Option(
            help="good and bad of one commit: skip it, majority, or bad (one suffices)"
        ),
    ] = "skip",
    path: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR", help="folder of the tree to import from; repeatable"
        ),
    ] = None,
    case: Annotated[
        str | None,
        typer.Option(metavar="WORD", help="one case. Default: what failed before."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="a gpt-oss MXFP4 folder. Default: embedded."),
    ] = None,
    device: OwnDevice = None,
    profile: Annotated[
        str, typer.Option(help="how many cases --check draws; ci draws the same ones")
    ] = "ci",
    questions: Annotated[
        int, typer.Option(min=8, max=1319, help="that --score asks at the ends")
    ] = 64,
    run_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="keep each run. Default: none.")
    ] = None,
    as_json: AsDocument = False,
) -> int:
    """Judge the commit that is checked out; made for `git bisect run` and mxmoe bisect.

    One of --check, --bundle and --score decides. A failure is recognised by what is
    wrong (check, stage, shape of the damage, cause), not by where: another failure
    does not lead the search astray. The run directory decides, not pytest's exit code.

    Exit codes: 0 good; 1 the same failure; 125 cannot be tested (does not build or
    load, unsupported, another failure, flaky, out of time); 128 and more stop the
    search: the machine failed, 129 wrong usage, 130 interrupted.
    """
    options = dict(locals())
    import json
    import traceback

    from mxmoe.conformance.escape import printable
    from mxmoe.evals.bisect.step_code import Abort
    from mxmoe.evals.bisect.step_code import StepCode
    from mxmoe.evals.bisect.under import under_what
    from mxmoe.reference.errors import BadInput

    try:
        asked = _request(options)
        step = _take(asked, run_dir)
    except Abort as error:
        step = _stopped(error.code, str(error))
    except BadInput as error:
        step = _stopped(StepCode.USAGE, str(error))
    except KeyboardInterrupt:
        step = _stopped(StepCode.INTERRUPTED, "interrupted")
    except Exception as error:
        # Python would exit with 1: bad.
        traceback.print_exc()
        step = _stopped(StepCode.ABORT, f"{type(error).__name__}: {error}")
    facts = json.dumps(step.as_json())
    under = under_what()
    if under is not None:
        under.report.write_text(facts, encoding="utf-8")
    if as_json:
        typer.echo(facts)
    else:
        typer.echo(printable(f"{step.code.word}: {step.reason}"))
    return int(step.code)


bisect_step.command_class = StepCommand  # type: ignore[attr-defined]


def _request(options: dict[str, Any]) -> Request:
    from mxmoe.evals.bisect.request import Request
    from mxmoe.evals.bisect.step_code import StepCode
    from mxmoe.evals.bisect.under import under_what
    from mxmoe.reference.errors import BadInput

    for name, allowed in (
        ("on_timeout", ("skip", "bad")),
        ("disagree", ("skip", "majority", "bad")),
    ):
        if options[name] not in allowed:
            raise BadInput(
                f"--{name.replace('_', '-')}: expected one of {', '.join(allowed)}, "
                f"found {options[name]!r}"
            )
    under = under_what()
    stood = Path.cwd() if under is None else under.stood

    def meant(given: Path | None) -> Path | None:
        return None if given is None else stood / given

    score = options["score"]
    return Request(
        candidate=options["candidate"],
        check=options["check"],
        bundle=meant(options["bundle"]),
        score=_by_score(options) if score else None,
        like=meant(options["like"]),
        case=options["case"],
        checkpoint=meant(options["checkpoint"]),
        device=options["device"],
        profile=options["profile"],
        questions=options["questions"],
        build=options["build"],
        build_seconds=options["build_limit"],
        seconds=options["time_limit"],
        on_timeout=StepCode.BAD if options["on_timeout"] == "bad" else StepCode.SKIP,
        repeat=options["repeat"] or (1 if score else 3),
        disagree=options["disagree"],
        paths=tuple(options["path"] or ()),
    )


def _by_score(options: dict[str, Any]) -> Any:
    from mxmoe.reference.errors import BadInput

    try:
        from mxmoe.evals.bisect.by_score import ByScore
    except ModuleNotFoundError as error:
        raise BadInput(
            "--score: expected the extra 'hf' (pip install 'mxmoe-conformance[hf]'), "
            f"found no {error.name}"
        ) from error

    def predicate(spec: str, least_correct: int | None) -> Any:
        return ByScore(
            candidate=spec,
            device=options["device"] or "cpu",
            questions=options["questions"],
            least_correct=least_correct,
        )

    return predicate


def _take(asked: Request, run_dir: Path | None) -> Step:
    from mxmoe.evals.bisect.step import BETWEEN
    from mxmoe.evals.bisect.step import Bench
    from mxmoe.evals.bisect.step import bench_of
    from mxmoe.evals.bisect.under import under_what
    from mxmoe.evals.bisect.warm import import_what_a_judgement_needs

    import_what_a_judgement_needs()
    under = under_what()
    if under is not None:
        bench = Bench(request=asked, runs=under.runs, lesson=under.lesson)
        return bench.judge(Path.cwd(), under.role)
    with bench_of(asked, Path.cwd(), run_dir) as bench:
        return bench.judge(Path.cwd(), BETWEEN)


def _stopped(code: Any, reason: str) -> Step:
    from mxmoe.evals.bisect.step_code import Step

    return Step(code=code, reason=reason)
