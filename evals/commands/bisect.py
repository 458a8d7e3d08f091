"""``mxmoe bisect``: which commit, or which layers or experts, made it wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any

import typer

from mxmoe.conformance.commands.options import AsDocument
from mxmoe.conformance.commands.options import ResumedRunDir
from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.commands.model_options import Fault

if TYPE_CHECKING:
    from rich.console import Console


def bisect(
    good: Annotated[
        str | None,
        typer.Argument(help="a commit without the fault", show_default=False),
    ] = None,
    bad: Annotated[
        str | None, typer.Argument(help="a commit with it", show_default=False)
    ] = None,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- COMMAND...",
            help="judges a commit, as for `git bisect run`: mxmoe bisect-step ...",
            show_default=False,
        ),
    ] = None,
    repo: Annotated[
        Path, typer.Option(metavar="DIR", help="a folder of the git repository")
    ] = Path(),
    first_parent: Annotated[
        bool, typer.Option("--first-parent", help="of merges, judge the main line only")
    ] = False,
    time_limit: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="for COMMAND; over it: not testable"),
    ] = None,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers", help="of a model: the fewest layers that carry the fault"
        ),
    ] = False,
    experts: Annotated[
        bool, typer.Option("--experts", help="of a model: the fewest experts")
    ] = False,
    candidate: Annotated[
        str | None,
        typer.Option(
            "--candidate",
            "-c",
            metavar="SPEC",
            help="for --layers, --experts: path/file.py:attr or an installed name",
        ),
    ] = None,
    fault: Fault = None,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="default: the one that ships")
    ] = None,
    device: Annotated[str, typer.Option(help="of the model: cpu or cuda")] = "cpu",
    questions: Annotated[
        int, typer.Option(min=1, max=1319, help="whose right answers are scored")
    ] = 16,
    run_dir: ResumedRunDir = None,
    as_json: AsDocument = False,
) -> ExitCode:
    """Find the first bad commit between GOOD and BAD, or a smallest set of experts.

    Commits: git bisects in a working tree of its own; your checkout stays as it is.
    Both ends are verified first, and the culprit against its parent last. COMMAND runs
    in that tree; paths of `mxmoe bisect-step` options are meant from where you are, but
    its --candidate is a file of the tree.

    --layers, --experts: which of them must the reference compute, so that a model
    with the candidate inside scores as it should? Delta debugging, in passes until
    nothing is left: none of what a pass finds can be left out of it.

    Exit codes: 0 found; 2 usage; 3 invalid: an end is not what it is said to be, or
    the machinery failed; 4 inconclusive: commits that cannot be tested hide it, it was
    not confirmed, or nothing is wrong.
    """
    from rich.console import Console

    from mxmoe.reference.errors import BadInput

    console = Console(
        stderr=as_json, markup=False, emoji=False, highlight=False, soft_wrap=True
    )
    if layers or experts:
        if good is not None or (layers and experts):
            raise BadInput(
                "bisect: expected GOOD and BAD, or --layers, or --experts; found "
                "more than one of them"
            )
        if candidate is None:
            raise BadInput("--layers, --experts: expected --candidate, found none")
        options = {
            "candidate": candidate,
            "fault": fault,
            "device": device,
            "questions": questions,
            "single": experts,
        } | ({} if model is None else {"model": model})
        return _places(options, run_dir, console, as_json)
    if good is None or bad is None:
        raise BadInput("bisect: expected GOOD, BAD and -- COMMAND, found less")
    git = {"repo": repo, "first_parent": first_parent, "seconds": time_limit}
    return _commits(good, bad, tuple(command or ()), git, run_dir, console, as_json)


def _commits(
    good: str,
    bad: str,
    command: tuple[str, ...],
    options: dict[str, Any],
    run_dir: Path | None,
    console: Console,
    as_json: bool,
) -> ExitCode:
    import json

    from mxmoe.conformance.escape import printable
    from mxmoe.conformance.processes import Terminated
    from mxmoe.conformance.processes import termination_raises
    from mxmoe.conformance.rundir import new_run_id
    from mxmoe.evals.bisect.command import meant_from_here
    from mxmoe.evals.bisect.drive import Asked
    from mxmoe.evals.bisect.drive import drive
    from mxmoe.evals.bisect.git import Git
    from mxmoe.evals.bisect.run_folder import run_folder
    from mxmoe.evals.bisect.shown import Shown

    repo = options["repo"].resolve()
    asked = Asked(
        good=Git(repo).commit(good),
        bad=Git(repo).commit(bad),
        command=meant_from_here(command, Path.cwd()),
        stood=Path.cwd(),
        **options | {"repo": repo},
    )
    folder = (run_dir or Path("runs") / new_run_id()).resolve()
    writer = run_folder(folder, asked)
    try:
        with termination_raises(), Shown(console) as shown:
            outcome = drive(asked, folder, shown.heard())
    except KeyboardInterrupt as stopped:
        how = "ended" if isinstance(stopped, Terminated) else "interrupted"
        console.print(f"{how}; to go on: the same command with --run-dir {folder}")
        writer.describe(result="interrupted")
        raise
    writer.describe(**outcome.as_json())
    for line in outcome.lines()[:-1]:
        console.print(printable(line))
    console.print(f"run     {folder}")
    console.print(printable(outcome.verdict_line()))
    if as_json:
        typer.echo(json.dumps(outcome.as_json() | {"run": str(folder)}))
    return outcome.result.exit_code


def _places(
    options: dict[str, Any], run_dir: Path | None, console: Console, as_json: bool
) -> ExitCode:
    import json
    from dataclasses import asdict

    from mxmoe.conformance.rundir import describe_machine
    from mxmoe.conformance.rundir import new_run_id
    from mxmoe.conformance.rundir import open_run
    from mxmoe.reference.errors import BadInput

    try:
        from mxmoe.evals.bisect.carriers import Options
        from mxmoe.evals.bisect.carriers import find_carriers
        from mxmoe.evals.bisect.carriers_shown import as_facts
        from mxmoe.evals.bisect.carriers_shown import lines
    except ModuleNotFoundError as error:
        raise BadInput(
            "--layers, --experts: expected the extra 'hf' "
            f"(pip install 'mxmoe-conformance[hf]'), found no {error.name}"
        ) from error
    asked = Options(**options)
    writer = open_run(run_dir or Path("runs") / new_run_id())
    facts = asdict(asked) | {"model": str(asked.model)}
    writer.describe(command="bisect", asked=facts, **describe_machine())
    with console.status("measuring") as status:
        found = find_carriers(
            asked,
            heard=lambda doing, n: status.update(f"{doing} · {n} evaluations"),
        )
    code = ExitCode.PASS if found.layers else ExitCode.INCONCLUSIVE
    writer.describe(result=as_facts(found), exit_code=int(code))
    for line in lines(found, asked):
        console.print(line)
    if as_json:
        document = as_facts(found) | {"run": str(writer.folder), "exit_code": int(code)}
        typer.echo(json.dumps(document))
    return code
