"""``mxmoe locate`` on a model: load, search, say it, keep it in a run directory."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from typing import Any

from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.rundir import describe_machine
from mxmoe.conformance.rundir import open_run
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.suite.run_facts import candidate_facts
from mxmoe.conformance.suite.run_facts import now
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.evals.gate.planted import load_base
from mxmoe.evals.gate.planted import plant
from mxmoe.evals.grade_school.frozen import load_test_problems
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.inside.load import DTYPES
from mxmoe.evals.inside.load import Loaded
from mxmoe.evals.inside.load import load
from mxmoe.evals.inside.shelf import KEPT_BYTES
from mxmoe.evals.inside.swap import put_swappable
from mxmoe.evals.locate.not_looked_at import not_looked_at
from mxmoe.evals.locate.not_looked_at import not_observable
from mxmoe.evals.locate.one_layer import only_in_layer
from mxmoe.evals.locate.search import Found
from mxmoe.evals.locate.search import Search
from mxmoe.evals.locate.search import search
from mxmoe.evals.locate.words import evidence
from mxmoe.evals.locate.words import sentence
from mxmoe.evals.locate.words import spot
from mxmoe.evals.locate.written_bundle import bundle_of
from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.errors import BadInput

# Of the shipped model's problems, those that are asked where no prompt is given.
_PROBLEMS = 2
# Every layer's inputs of all prompts are kept.
_MOST_TOKENS = 2**14


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `mxmoe locate` was asked for.

    fault_layer : plant the fault in this layer alone. prompts : texts; token_ids :
    prompts in tokens. expects_failure : the inputs are those of a failure.
    """

    candidate: str
    fault: str | None = None
    fault_layer: int | None = None
    model: Path = FOLDER
    dtype: str = "float32"
    device: str = "cpu"
    prompts: tuple[str, ...] = ()
    token_ids: tuple[tuple[int, ...], ...] = ()
    only_first: bool = False
    expects_failure: bool = False
    asked: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Located:
    """What a run came to. lines : the verdict first. facts : for a program."""

    code: ExitCode
    lines: tuple[str, ...]
    facts: dict[str, Any]


def run_locate(
    options: Options,
    folder: Path,
    *,
    heard: Callable[[str], None] = lambda doing: None,
) -> Located:
    """Search and conclude; raises `BadInput` for what cannot be carried out."""
    subject = _subject(options)
    reason = subject.unavailable()
    if reason is not None:
        return _invalid(f"{options.candidate} cannot run here: {reason}")
    dtype = DTYPES[options.dtype]
    loaded = load(options.model, dtype=dtype, device=options.device, experts=False)
    prompts = _prompts(options, loaded)
    writer = open_run(folder)
    writer.describe(
        command="locate",
        started=now(),
        **describe_machine(),
        candidates=[candidate_facts(subject)],
        options=asdict(options) | {"model": str(options.model)},
    )
    try:
        swap = put_swappable(loaded, subject, room=KEPT_BYTES)
    except Failure as failure:
        first, *rest = failure.text.splitlines()
        return _ended(writer, ExitCode.FAIL, [first, *rest], {"found": []})
    try:
        result = search(swap, prompts, only_first=options.only_first, heard=heard)
    except Failure as failure:
        code = ExitCode.INVALID
        if failure.verdict is not Verdict.NONFINITE:
            code = ExitCode.FAIL
        return _ended(writer, code, failure.text.splitlines(), {"found": []})
    heard("the bundle")
    return _concluded(options, subject, loaded, result, writer)


def _subject(options: Options) -> Subject:
    subject = load_base(options.candidate, device=_device(options))
    if options.fault is None:
        return subject
    planted = plant(options.fault, subject)
    if options.fault_layer is not None:
        checkpoint = open_checkpoint(options.model)
        planted = only_in_layer(planted, subject, checkpoint, options.fault_layer)
    return replace(planted, device_request=subject.device_request)


def _device(options: Options) -> str | None:
    return None if options.device == "auto" else options.device


def _prompts(options: Options, loaded: Loaded) -> list[list[int]]:
    texts = list(options.prompts)
    if not texts and not options.token_ids:
        problems = load_test_problems()[:_PROBLEMS]
        texts = [problem.prompt + problem.completion for problem in problems]
    found = [list(loaded.tokenizer(text)["input_ids"]) for text in texts]
    found += [list(ids) for ids in options.token_ids]
    vocabulary = loaded.model.config.vocab_size
    for ids in found:
        if not ids:
            raise BadInput("prompt: expected at least one token, found none")
        for token in ids:
            if not 0 <= token < vocabulary:
                raise BadInput(
                    f"--tokens: expected ids from 0 to {vocabulary - 1}, found {token}"
                )
    total = sum(map(len, found))
    if total > _MOST_TOKENS:
        raise BadInput(
            f"prompts: expected at most {_MOST_TOKENS} tokens, found {total}"
        )
    return found


def _invalid(reason: str) -> Located:
    return Located(
        code=ExitCode.INVALID, lines=(reason,), facts={"found": [], "reason": reason}
    )


def _concluded(
    options: Options,
    subject: Subject,
    loaded: Loaded,
    result: Search,
    writer: RunWriter,
) -> Located:
    lines = [sentence(f.result, f.causes) for f in result.found]
    if not lines:
        lines = _nothing_found(options, result)
    found = [_facts(one) for one in result.found]
    for one in found:
        lines += ["", f"layer {one['layer']}"] if len(found) > 1 else []
        lines += one["evidence"]
    lines += [""] if len(found) > 1 else []
    lines += _in_the_model(result)
    unseen = not_observable(subject)
    if not result.found:
        lines += unseen
    lines += not_looked_at(subject)
    lines.append(f"evaluations: {result.count}")
    bundles = {
        f.result.under.number: bundle_of(f.result, loaded.checkpoint, writer)
        for f in result.found[:1]
    }
    for layer, bundle in bundles.items():
        if bundle is None:
            lines.append(
                f"bundle: none, as layer {layer} alone passes the suite's own check"
            )
        else:
            lines.append(f"bundle {writer.folder / bundle}")
    code = ExitCode.FAIL if result.found else ExitCode.PASS
    if not result.found and options.expects_failure:
        code = ExitCode.INCONCLUSIVE
    facts = {
        "found": found,
        "evaluations": asdict(result.count),
        "bundle": next(iter(bundles.values()), None),
        "not_observed": [*unseen, *not_looked_at(subject)],
    }
    lines.append(f"again  {again(options)}")
    return _ended(writer, code, lines, facts)


def _nothing_found(options: Options, result: Search) -> list[str]:
    lines = [
        f"no divergence: {options.candidate} is within its bounds in all "
        f"{result.judged} layers, alone and in the model"
    ]
    if options.expects_failure:
        lines.append(
            "the failure that was given is not in the experts: look at the router, the "
            "attention, the sampling, or at what differs between that run and this one"
        )
    return lines


def _in_the_model(result: Search) -> list[str]:
    if result.distances is None:
        return ["in the model: the candidate does not run there"]
    whole, rest = result.distances.everywhere, result.distances.without
    text = f"logits: {100 * whole:.3g} % from the reference's"
    if not math.isfinite(whole):
        text = "logits: not finite"
    if result.found:
        text += f", {100 * rest:.3g} % once the reference serves the wrong experts"
    lines = [text]
    if result.unreached:
        listed = ", ".join(f"{layer}/{e}" for layer, e in result.unreached[:8])
        lines.append(
            f"layer/expert that no prompt reaches, judged on probes: {listed}"
            + (", ..." if len(result.unreached) > 8 else "")
        )
    return lines


def _facts(found: Found) -> dict[str, Any]:
    at = found.result.divergence
    facts: dict[str, Any] = {
        "layer": found.result.under.number,
        "sentence": sentence(found.result, found.causes),
        "why": [c.text for c in found.causes],
        "wrong_bytes": {
            wrong.tensor: list(wrong.experts) for wrong in found.result.wrong_bytes
        },
        "evidence": evidence(found.result),
    }
    if at is not None:
        token = found.result.under.inputs.tokens[at.row]
        where = spot(found.result, at, found.causes)
        facts |= {
            "stage": where.stage,
            "expert": where.expert,
            "experts": list(at.experts),
            "prompt": token.prompt,
            "token": token.position,
            "slot": where.slot,
            "column": where.column,
        }
    return facts


def again(options: Options) -> str:
    """The command that repeats it."""
    words = ["mxmoe", "locate", "-c", options.candidate]
    if options.fault is not None:
        words += ["--fault", options.fault]
    if options.fault_layer is not None:
        words += ["--fault-layer", str(options.fault_layer)]
    if options.model != FOLDER:
        words += ["--model", str(options.model)]
    if options.dtype != "float32":
        words += ["--dtype", options.dtype]
    if options.device != "cpu":
        words += ["--device", options.device]
    return shlex.join([*words, *options.asked])


def _ended(
    writer: RunWriter, code: ExitCode, lines: Sequence[str], facts: dict[str, Any]
) -> Located:
    facts |= {"verdict": lines[0], "lines": list(lines), "run": str(writer.folder)}
    writer.describe(
        finished=now(), exit_code=int(code), verdict=lines[0], located=facts
    )
    return Located(code=code, lines=(*lines, f"run {writer.folder}"), facts=facts)
