"""The gate on the shipped model: load, put the candidate inside, ask, conclude."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path

from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.registry import source_file
from mxmoe.conformance.run_facts import candidate_facts
from mxmoe.conformance.run_facts import now
from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.rundir import describe_machine
from mxmoe.conformance.rundir import open_run
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.asking import Plan
from mxmoe.evals.gate.asking import Progress
from mxmoe.evals.gate.asking import ask_until_decided
from mxmoe.evals.gate.evidence import weigh
from mxmoe.evals.gate.health import complaints
from mxmoe.evals.gate.order import registered_order
from mxmoe.evals.gate.planted import plant
from mxmoe.evals.gate.protocol import Protocol
from mxmoe.evals.gate.protocol import prompt_hash
from mxmoe.evals.gate.protocol import prompts_hash
from mxmoe.evals.gate.reference import load_reference
from mxmoe.evals.gate.rule import Rule
from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.evals.gate.verdict import conclude
from mxmoe.evals.grade_school.answers import LONGEST_ANSWER
from mxmoe.evals.grade_school.answers import extract
from mxmoe.evals.grade_school.answers import is_correct
from mxmoe.evals.grade_school.frozen import load_test_problems
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.grade_school.problem import Problem
from mxmoe.evals.inside.experts import Inside
from mxmoe.evals.inside.experts import put_inside
from mxmoe.evals.inside.generate import answers
from mxmoe.evals.inside.load import DTYPES
from mxmoe.evals.inside.load import load
from mxmoe.evals.inside.proof import proof
from mxmoe.evals.model_identity import weights_sha256
from mxmoe.reference.errors import BadInput

TASK = "grade_school"
ORDER_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `mxmoe gate` was asked for."""

    candidate: str
    fault: str | None = None
    model: Path = FOLDER
    dtype: str = "float32"
    device: str = "cpu"
    batch: int = 64
    full: bool = False


class DidNotRun(Exception):
    """The candidate's calls do not match the model's passes; str() says how."""


def run_gate(
    options: Options,
    folder: Path,
    *,
    heard: Callable[[Rule, Progress], None] = lambda rule, progress: None,
) -> Conclusion:
    """Judge a candidate by the task, in the run directory `folder`.

    A folder of the same options and candidate file is gone on with; once it has ended,
    its verdict stays: asking again would be a retry. Raises `BadInput` for options that
    cannot be carried out and for a folder of another run.
    """
    reference = load_reference(TASK)
    rule = reference.test.rule()
    subject = _subject(options)
    problems = load_test_problems()
    protocol = protocol_of(options.model, problems)
    writer = _writer(folder, options)
    ended = _ended(writer)
    if ended is not None:
        return ended
    writer.describe(
        candidates=[candidate_facts(subject)],
        protocol=asdict(protocol),
        rule=asdict(rule),
    )
    progress = Progress(weigh(rule, 0, 0), [])
    other = reference.protocol.differences(protocol)
    if other:
        return _end(writer, conclude(rule, progress.standing, other_protocol=other))
    plan = Plan(
        rule=rule,
        order=registered_order(len(problems), seed=ORDER_SEED),
        batch=options.batch,
        full=options.full,
    )

    def keep(found: Progress) -> None:
        nonlocal progress
        progress = found
        heard(rule, found)

    failure, did_not_run = None, None
    try:
        asked = Asked(_inside(options, subject), problems)
        ask_until_decided(plan, asked, folder, heard=keep)
    except Failure as found:
        failure = found
    except DidNotRun as reason:
        did_not_run = str(reason)
    except KeyboardInterrupt:
        pass  # inconclusive, unless it was decided already
    signs = complaints(progress.counted, reference.baseline) if progress.counted else ()
    conclusion = conclude(
        rule,
        progress.standing,
        did_not_run=did_not_run,
        failure=failure,
        complaints=signs,
    )
    return _end(writer, conclusion)


def protocol_of(model: Path, problems: Sequence[Problem]) -> Protocol:
    """What decides this task's score besides the kernel."""
    return Protocol(
        task=TASK,
        task_version="1",
        model_sha256=weights_sha256(model),
        questions=len(problems),
        prompts_sha256=prompts_hash(problem.prompt for problem in problems),
        order_seed=ORDER_SEED,
        few_shots=0,
        chat_template=False,
        reasoning_effort=None,
        temperature=0.0,
        output_tokens=LONGEST_ANSWER,
        stops=(),
        extraction="strict-match",
        harness="mxmoe",
    )


@dataclass(frozen=True)
class Asked:
    """Asks the model, and lets no answer count that the candidate did not compute."""

    inside: Inside
    problems: Sequence[Problem]

    def __call__(self, questions: Sequence[int]) -> Iterator[AnswerLine]:
        """The answers to these questions, as they end; `DidNotRun` if not its own."""
        begun = time.perf_counter()
        prompts = [self.problems[question].prompt for question in questions]
        for answer in answers(
            self.inside.loaded, prompts, batch=len(prompts), longest=LONGEST_ANSWER
        ):
            objection = proof(self.inside.passes, self.inside.experts).objection()
            if objection is not None:
                raise DidNotRun(objection)
            question = questions[answer.index]
            yield AnswerLine(
                question=question,
                prompt_sha256=prompt_hash(prompts[answer.index]),
                text=answer.text,
                extracted=extract(answer.text),
                correct=is_correct(self.problems[question], answer.text),
                tokens=len(answer.tokens),
                finish_reason=answer.finish_reason,
                finite=True,
                seconds=time.perf_counter() - begun,
            )


def _subject(options: Options) -> Subject:
    subject = load_candidate(options.candidate, device=options.device)
    if options.fault is None:
        return subject
    planted = plant(options.fault, subject)
    return replace(planted, device_request=subject.device_request)


def _inside(options: Options, subject: Subject) -> Inside:
    loaded = load(options.model, dtype=DTYPES[options.dtype], device=options.device)
    return put_inside(loaded, subject)


def _writer(folder: Path, options: Options) -> RunWriter:
    """Of a new run, or of one with the same options and the same candidate."""
    source = source_file(options.candidate)
    facts = asdict(options) | {
        "model": str(options.model),
        "candidate_file": source and hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    if not (folder / "run.json").exists():
        writer = open_run(folder)
        writer.describe(
            command="gate",
            started=now(),
            options=facts,
            **describe_machine(),
        )
        return writer
    writer = RunWriter.reopen(folder)
    before = writer.facts.get("options")
    if before != facts:
        raise BadInput(
            f"{folder}: expected an empty folder or a run of these options, "
            f"found one of {before}"
        )
    return writer


def _ended(writer: RunWriter) -> Conclusion | None:
    """The conclusion of a run that has one and could not be decided otherwise."""
    verdict = GateVerdict(writer.facts.get("verdict", GateVerdict.INCONCLUSIVE))
    if verdict is GateVerdict.INCONCLUSIVE:
        return None
    return Conclusion(verdict, tuple(writer.facts["reasons"]))


def _end(writer: RunWriter, conclusion: Conclusion) -> Conclusion:
    writer.describe(verdict=str(conclusion.verdict), reasons=list(conclusion.reasons))
    return conclusion
