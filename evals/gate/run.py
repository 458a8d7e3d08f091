"""The gate on a model: load, put the candidate inside, ask, conclude."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.suite.run_facts import candidate_facts
from mxmoe.conformance.verdict import Failure
from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.answer_lines import resume_answers
from mxmoe.evals.gate.asking import Plan
from mxmoe.evals.gate.asking import Progress
from mxmoe.evals.gate.asking import ask_until_decided
from mxmoe.evals.gate.begun import begin
from mxmoe.evals.gate.begun import facts_of
from mxmoe.evals.gate.ended import end
from mxmoe.evals.gate.ended import ended
from mxmoe.evals.gate.evidence import weigh
from mxmoe.evals.gate.health import complaints
from mxmoe.evals.gate.options import Options
from mxmoe.evals.gate.options import cannot_run
from mxmoe.evals.gate.options import load_subject
from mxmoe.evals.gate.order import registered_order
from mxmoe.evals.gate.prompts import prompts_of
from mxmoe.evals.gate.prompts import template_sha256
from mxmoe.evals.gate.protocol import prompt_hash
from mxmoe.evals.gate.reference import Reference
from mxmoe.evals.gate.reference import find_reference
from mxmoe.evals.gate.rule import Rule
from mxmoe.evals.gate.task import ORDER_SEED
from mxmoe.evals.gate.task import Task
from mxmoe.evals.gate.tasks import load_task
from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.evals.gate.verdict import conclude
from mxmoe.evals.inside.experts import Inside
from mxmoe.evals.inside.experts import put_inside
from mxmoe.evals.inside.generate import Answer
from mxmoe.evals.inside.generate import answers
from mxmoe.evals.inside.load import DTYPES
from mxmoe.evals.inside.load import load
from mxmoe.evals.inside.proof import proof
from mxmoe.evals.model_identity import weights_sha256
from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.errors import BadInput


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
    cannot be carried out, for a folder of another run and for a damaged one.
    """
    task = load_task(options.task, options.data)
    subject = load_subject(options)
    checkpoint = open_checkpoint(options.model)
    reference = find_reference(
        options.task,
        shape=(checkpoint.layers, checkpoint.config),
        threshold=options.threshold,
    )
    protocol = task.protocol(weights_sha256(options.model))
    writer = begin(folder, facts_of(options))
    conclusion = ended(writer)
    if conclusion is not None:
        return conclusion
    writer.describe(
        candidates=[candidate_facts(subject)],
        protocol=asdict(protocol),
        rule=asdict(reference.rule),
        test=reference.notation(),
        questions_sha256=task.questions_sha256,
    )
    reason = cannot_run(subject, checkpoint.config)
    if reason is not None:
        return end(writer, Conclusion(GateVerdict.INVALID, (reason,)))
    other = reference.differences(protocol)
    if other:
        standing = weigh(reference.rule, 0, 0)
        return end(writer, conclude(reference.rule, standing, other_protocol=other))
    return end(writer, _judge(options, task, subject, reference, writer, heard))


def _judge(
    options: Options,
    task: Task,
    subject: Subject,
    reference: Reference,
    writer: RunWriter,
    heard: Callable[[Rule, Progress], None],
) -> Conclusion:
    rule = reference.rule
    progress = Progress(weigh(rule, 0, 0), [])

    def keep(found: Progress) -> None:
        nonlocal progress
        progress = found
        heard(rule, found)

    failure, did_not_run = None, None
    try:
        inside = _inside(options, subject)
        prompts = prompts_of(task, inside.loaded.tokenizer)
        writer.describe(
            template_sha256=template_sha256(inside.loaded.tokenizer),
            layer_devices=[str(experts.finite.device) for experts in inside.experts],
        )
        _check_kept(writer.folder, task, prompts)
        plan = Plan(
            rule=rule,
            order=registered_order(len(prompts), seed=ORDER_SEED),
            batch=options.batch,
            full=options.full,
        )
        ask_until_decided(plan, Asked(inside, task, prompts), writer.folder, heard=keep)
    except Failure as found:
        failure = found
    except DidNotRun as reason:
        did_not_run = str(reason)
    except KeyboardInterrupt:
        pass  # inconclusive, unless it was decided already
    signs = complaints(progress.counted, reference.baseline) if progress.counted else ()
    return conclude(
        rule,
        progress.standing,
        did_not_run=did_not_run,
        failure=failure,
        complaints=signs,
    )


@dataclass(frozen=True)
class Asked:
    """Asks the model, and lets no answer count that the candidate did not compute."""

    inside: Inside
    task: Task
    prompts: Sequence[str]

    def __call__(self, questions: Sequence[int]) -> Iterator[AnswerLine]:
        """The answers to these questions, as they end; `DidNotRun` if not its own."""
        begun = time.perf_counter()
        prompts = [self.prompts[question] for question in questions]
        for answer in self._answers(prompts, questions):
            objection = proof(self.inside.passes, self.inside.experts).objection()
            if objection is not None:
                raise DidNotRun(objection)
            question = questions[answer.index]
            yield AnswerLine(
                prompt_sha256=prompt_hash(prompts[answer.index]),
                text=answer.text,
                tokens=len(answer.tokens),
                finish_reason=answer.finish_reason,
                finite=True,
                seconds=time.perf_counter() - begun,
                **_scored(self.task, question, answer.text),
            )

    def _answers(
        self, prompts: Sequence[str], questions: Sequence[int]
    ) -> Iterator[Answer]:
        try:
            yield from answers(
                self.inside.loaded,
                prompts,
                batch=len(prompts),
                longest=self.task.output_tokens,
                stops=self.task.stops,
                numbers=questions,
            )
        except Failure as failure:
            raise self.inside.with_layer(failure) from failure


def _scored(task: Task, question: int, text: str) -> dict[str, Any]:
    return {
        "question": question,
        "extracted": task.extract(text),
        "correct": task.is_correct(question, text),
    }


def _check_kept(folder: Path, task: Task, prompts: Sequence[str]) -> None:
    """`BadInput` for kept answers to other prompts, or scored in another way."""
    for number, line in resume_answers(folder).items():
        if not 0 <= number < len(prompts):
            raise BadInput(
                f"{folder}: expected answers to questions below {len(prompts)}, "
                f"found one to question {number}"
            )
        again = _scored(task, number, line.text)
        again["prompt_sha256"] = prompt_hash(prompts[number])
        for name, expected in again.items():
            if getattr(line, name) != expected:
                raise BadInput(
                    f"{folder}: question {number}: expected {name} {expected!r:.40} "
                    f"as this task has it, found {getattr(line, name)!r:.40}"
                )


def _inside(options: Options, subject: Subject) -> Inside:
    dtype = DTYPES[options.dtype]
    loaded = load(options.model, dtype=dtype, device=options.device, experts=False)
    return put_inside(loaded, subject)
