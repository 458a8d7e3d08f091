"""``python -m mxmoe.evals.score_grade_school --out FILE.json``: one recorded run.

Asks a model all 1319 problems with a candidate in the place of its experts. Exit code
0: scored, whatever the score; 1: NaN or a candidate that fails; 2: bad input; 3: the
candidate did not run in every layer of every pass.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated
from typing import Any

import torch
import typer

from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.rundir import describe_machine
from mxmoe.conformance.suite.run_facts import candidate_facts
from mxmoe.conformance.suite.run_facts import now
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verdict import Failure
from mxmoe.evals.grade_school import frozen
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.inside.experts import Inside
from mxmoe.evals.inside.experts import put_inside
from mxmoe.evals.inside.generate import Answer
from mxmoe.evals.inside.load import DTYPES
from mxmoe.evals.inside.load import Loaded
from mxmoe.evals.inside.load import load
from mxmoe.evals.inside.score import Score
from mxmoe.evals.inside.score import score
from mxmoe.evals.model_identity import weights_sha256
from mxmoe.reference.errors import BadInput

PLAIN = "transformers"
# Answers between two lines of progress.
_REPORT_EVERY = 100


def main(
    out: Annotated[Path, typer.Option(help="the record, JSON; overwritten")],
    candidate: Annotated[
        str,
        typer.Option(help=f"as for mxmoe check, or {PLAIN}: its own experts"),
    ] = PLAIN,
    model: Annotated[Path, typer.Option(help="checkpoint folder")] = FOLDER,
    dtype: Annotated[
        str, typer.Option(help="of the model around the experts: " + ", ".join(DTYPES))
    ] = "float32",
    batch: Annotated[int, typer.Option(min=1, help="prompts at a time")] = 256,
    limit: Annotated[
        int, typer.Option(min=1, help="only the first problems")
    ] = frozen.COUNT,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto")] = "cpu",
    threads: Annotated[
        int,
        typer.Option(
            min=0,
            help="of torch on a CPU; 0: as for any narrow model, 1",
        ),
    ] = 0,
) -> None:
    """Score the model on the frozen problems and record the run."""
    if dtype not in DTYPES:
        raise BadInput(f"--dtype: expected {' or '.join(DTYPES)}, found {dtype!r:.40}")
    plain = candidate == PLAIN
    loaded = load(model, dtype=DTYPES[dtype], device=device, experts=plain)
    if threads:
        torch.set_num_threads(threads)
    facts: dict[str, Any] = {
        "started": now(),
        **describe_machine(),
        "device": _device_name(loaded),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "batch": batch,
        "limit": limit,
        "test_sha256": frozen.SHA256,
        "weights_sha256": weights_sha256(loaded.checkpoint.folder),
        "candidate": {"spec": candidate},
    }
    inside: Loaded | Inside = loaded
    if not plain:
        inside = put_inside(loaded, load_candidate(candidate))
        facts["candidate"] = candidate_facts(inside.experts[0].subject)
    problems = frozen.load_test_problems()[:limit]
    found = score(inside, problems, batch=batch, each=_Progress(len(problems)))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(facts | record(found), indent=2) + "\n", encoding="utf-8")
    typer.echo(sentence(found))
    objection = None if found.proof is None else found.proof.objection()
    if objection is not None:
        typer.echo(f"INVALID: {objection}", err=True)
        raise typer.Exit(ExitCode.INVALID)


class _Progress:
    """A line now and then."""

    def __init__(self, asked: int) -> None:
        self.asked, self.answered, self.correct = asked, 0, 0

    def __call__(self, _answer: Answer, correct: bool) -> None:
        self.answered += 1
        self.correct += correct
        if self.answered % _REPORT_EVERY == 0:
            typer.echo(
                f"{self.answered} of {self.asked}: {self.correct} correct", err=True
            )


def record(found: Score) -> dict[str, Any]:
    """What a run found, for its record."""
    return {
        "asked": found.asked,
        "correct": found.correct,
        "interval_95": list(found.interval),
        "wrong": list(found.wrong),
        "truncated": list(found.truncated),
        "tokens": sum(len(answer.tokens) for answer in found.answers),
        "seconds": round(found.seconds, 2),
        "proof": None if found.proof is None else found.proof.as_json(),
    }


def sentence(found: Score) -> str:
    """For a person."""
    low, high = (100 * share for share in found.interval)
    return (
        f"{found.correct} of {found.asked} correct, "
        f"{100 * found.correct / found.asked:.2f} % "
        f"(95 % interval {low:.2f} to {high:.2f} %), in {found.seconds:.1f} s"
    )


def _device_name(loaded: Loaded) -> str:
    device = loaded.model.get_input_embeddings().weight.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


if __name__ == "__main__":
    try:
        typer.run(main)
    except BadInput as error:
        typer.echo(str(error), err=True)
        sys.exit(ExitCode.USAGE)
    except Failure as failure:
        typer.echo(f"{failure.verdict}: {failure.text}", err=True)
        sys.exit(ExitCode.FAIL)
