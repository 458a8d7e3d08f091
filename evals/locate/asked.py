"""From what was typed to what is done; bad combinations are refused in one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mxmoe.conformance.rundir import new_run_id
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.locate.dumps.run import DEFAULT_CLASS
from mxmoe.evals.locate.dumps.run import DumpOptions
from mxmoe.evals.locate.dumps.run import run_dumps
from mxmoe.evals.locate.failing_question import failing_question
from mxmoe.evals.locate.run import Located
from mxmoe.evals.locate.run import Options
from mxmoe.evals.locate.run import run_locate
from mxmoe.reference.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of the command, as they were typed."""

    candidate: str | None = None
    fault: str | None = None
    fault_layer: int | None = None
    model: Path | None = None
    prompts: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    run: Path | None = None
    question: int | None = None
    dumps: tuple[Path, Path] | None = None
    arithmetic: str | None = None
    dtype: str | None = None
    device: str | None = None
    only_first: bool = False


def located(
    asked: Asked, run_dir: Path | None, heard: Callable[[str], None]
) -> Located:
    """Do it; raises `BadInput` before anything has run."""
    folder = run_dir or Path("runs") / new_run_id()
    if asked.dumps is not None:
        return run_dumps(_dump_options(asked), folder, heard=heard)
    if asked.arithmetic is not None:
        raise BadInput(
            "--class: expected --dumps beside it, as a candidate declares it"
        )
    return run_locate(options_of(asked), folder, heard=heard)


def _dump_options(asked: Asked) -> DumpOptions:
    assert asked.dumps is not None
    beside = (asked.candidate, asked.fault, asked.run, asked.dtype, asked.device)
    if any(beside) or asked.prompts or asked.tokens or asked.question is not None:
        raise BadInput("--dumps: expected --model and --class beside it, found others")
    if asked.arithmetic is not None and asked.model is None:
        raise BadInput("--class: expected --model beside it, found none")
    reference, candidate = asked.dumps
    return DumpOptions(
        reference=reference,
        candidate=candidate,
        model=asked.model,
        arithmetic=asked.arithmetic or DEFAULT_CLASS,
    )


def options_of(asked: Asked) -> Options:
    """Of a search in a model; those of --run where they are not given."""
    given, prompts, expects = {}, asked.prompts, False
    words = [w for text in asked.prompts for w in ("--prompt", text)]
    words += [w for ids in asked.tokens for w in ("--tokens", ids)]
    if asked.question is not None and asked.run is None:
        raise BadInput("--question: expected --run beside it, found none")
    if asked.run is not None:
        question = failing_question(asked.run, asked.question)
        given, expects = dict(question.options), True
        prompts = (*prompts, question.text)
        words += ["--run", str(asked.run), "--question", str(question.number)]
    candidate = asked.candidate or given.get("candidate")
    if not isinstance(candidate, str):
        raise BadInput(
            "--candidate: expected a candidate, --run or --dumps, found none"
        )
    if asked.fault_layer is not None and (asked.fault or given.get("fault")) is None:
        raise BadInput("--fault-layer: expected --fault beside it, found none")
    dtype = asked.dtype or given.get("dtype") or "float32"
    if dtype not in ("float32", "bfloat16"):
        raise BadInput(f"--dtype: expected float32 or bfloat16, found {dtype!r:.40}")
    return Options(
        candidate=candidate,
        fault=asked.fault if asked.candidate else asked.fault or given.get("fault"),
        fault_layer=asked.fault_layer,
        model=asked.model or Path(given.get("model") or FOLDER),
        dtype=dtype,
        device=asked.device or given.get("device") or "cpu",
        prompts=prompts,
        token_ids=tuple(_ids(text) for text in asked.tokens),
        only_first=asked.only_first,
        expects_failure=expects,
        asked=(*words, *(("--first",) if asked.only_first else ())),
    )


def _ids(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", text):
        raise BadInput(f"--tokens: expected numbers like 1,2,3, found {text!r:.80}")
    return tuple(int(word) for word in text.split(","))
