"""The gate on an engine behind an endpoint: ask, check what can be, conclude."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

from mxmoe.conformance.rundir import RunWriter
from mxmoe.evals.endpoint.address import Address
from mxmoe.evals.endpoint.address import Api
from mxmoe.evals.endpoint.address import read_address
from mxmoe.evals.endpoint.api_key import key_from_environment
from mxmoe.evals.endpoint.asked import Asked
from mxmoe.evals.endpoint.asked import Sampling
from mxmoe.evals.endpoint.asking import Asker
from mxmoe.evals.endpoint.asking import Endpoint
from mxmoe.evals.endpoint.asking import NoAnswer
from mxmoe.evals.endpoint.asking import OutOfTime
from mxmoe.evals.endpoint.attempts import Attempt
from mxmoe.evals.endpoint.attempts import answered
from mxmoe.evals.endpoint.attempts import read_attempts
from mxmoe.evals.endpoint.limits import Limits
from mxmoe.evals.endpoint.reply import LENGTH
from mxmoe.evals.endpoint.run_folder import conclusion_before
from mxmoe.evals.endpoint.run_folder import end_or_leave
from mxmoe.evals.endpoint.run_folder import resume
from mxmoe.evals.endpoint.task import EndpointTask
from mxmoe.evals.endpoint.task import load_endpoint_task
from mxmoe.evals.endpoint.task import reference_at_endpoint
from mxmoe.evals.endpoint.trouble import Trouble
from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.asking import Plan
from mxmoe.evals.gate.asking import Progress
from mxmoe.evals.gate.asking import ask_until_decided
from mxmoe.evals.gate.begun import begin
from mxmoe.evals.gate.checked import between
from mxmoe.evals.gate.checked import whole
from mxmoe.evals.gate.evidence import weigh
from mxmoe.evals.gate.health import Baseline
from mxmoe.evals.gate.health import complaints
from mxmoe.evals.gate.health import too_many
from mxmoe.evals.gate.order import registered_order
from mxmoe.evals.gate.reference import Reference
from mxmoe.evals.gate.rule import Rule
from mxmoe.evals.gate.task import ORDER_SEED
from mxmoe.evals.gate.task import Task
from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.evals.gate.verdict import conclude
from mxmoe.reference.errors import BadInput

_MOST_AT_ONCE = 1024
# What a verdict at an endpoint does not cover; said with each.
UNVERIFIED = (
    "that the kernel under test ran",
    "which weights are served",
    "finite logits",
)
_UNSEEN_PROMPT = "the prompt after the server's template"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `mxmoe gate --endpoint` was asked for.

    model : as the server names it. data : of a task that ships no questions.
    reference : the name of an entry. threshold : percent, in the place of its score.
    api_key_env : the variable with the key, never the key. run_seconds : for all
    questions together.
    """

    endpoint: str
    model: str
    task: str = "grade_school"
    data: Path | None = None
    reference: str | None = None
    threshold: float | None = None
    api: Api | None = None
    api_key_env: str | None = None
    concurrency: int = 16
    full: bool = False
    limits: Limits = field(default_factory=Limits)
    run_seconds: float = 86400.0


def run_endpoint_gate(
    options: Options,
    folder: Path,
    *,
    heard: Callable[[Rule, Progress], None] = lambda rule, progress: None,
) -> Conclusion:
    """Judge the model behind an endpoint by the task, in the run directory `folder`.

    A folder of the same options is gone on with unless it has ended; a run that ended
    because the server could not be reached may go on. Raises `BadInput` for options
    that cannot be carried out and for a folder of another or a damaged run.
    """
    reference = reference_at_endpoint(
        options.task, options.reference, options.threshold
    )
    task = load_endpoint_task(options.task, options.data)
    endpoint = _endpoint(options, task.task)
    until = time.monotonic() + between("run_seconds", options.run_seconds, 0, 1e7)
    writer = begin(folder, _facts(options, endpoint.address))
    before = conclusion_before(writer)
    if before is not None:
        return before
    rule = reference.rule
    other = _other_protocol(writer, task, endpoint.asked, reference)
    if other:
        found = conclude(rule, weigh(rule, 0, 0), other_protocol=other)
        return end_or_leave(writer, found, goes_on=False)
    plan = Plan(
        rule=rule,
        order=registered_order(task.count, seed=ORDER_SEED),
        # All that are missing: the asker itself bounds how many are in flight.
        batch=task.count,
        full=options.full,
    )
    asked = _ask(plan, endpoint, task, folder, until, lambda p: heard(rule, p))
    found = _conclude(asked, reference, folder)
    return end_or_leave(writer, found, goes_on=asked.goes_on)


def _other_protocol(
    writer: RunWriter, task: EndpointTask, asked: Asked, reference: Reference
) -> list[str]:
    """How what is asked differs from the reference; both are written down."""
    protocol = task.protocol(asked, model_sha256=reference.protocol.model_sha256)
    writer.describe(
        protocol=asdict(protocol),
        rule=asdict(reference.rule),
        test=reference.notation(),
        questions_sha256=task.task.questions_sha256,
        unverified=unverified(task),
    )
    return reference.differences(protocol)


def unverified(task: EndpointTask) -> list[str]:
    """What the verdict on a task at an endpoint does not cover."""
    return [*UNVERIFIED, *([_UNSEEN_PROMPT] if task.tokens is None else [])]


@dataclass
class _Outcome:
    progress: Progress
    no_answer: str | None = None
    goes_on: bool = False


def _ask(
    plan: Plan,
    endpoint: Endpoint,
    task: EndpointTask,
    folder: Path,
    until: float,
    heard: Callable[[Progress], None],
) -> _Outcome:
    attempts = resume(folder, task)
    outcome = _Outcome(Progress(weigh(plan.rule, 0, 0), []))
    temperature = endpoint.asked.sampling.temperature
    final = _final(attempts, temperature)
    if final is not None:
        outcome.no_answer = f"question {final.question} has no answer: {final.said}"
        return outcome

    def keep(found: Progress) -> None:
        outcome.progress = found
        heard(found)

    ids = [reply.reply_id for _, reply in answered(attempts) if reply.reply_id]
    asker = Asker(endpoint, task, folder, reply_ids=ids, until=until)
    try:
        ask_until_decided(plan, asker, folder, heard=keep)
    except NoAnswer as reason:
        outcome.no_answer = str(reason)
        outcome.goes_on = reason.trouble.may_go_on(temperature=temperature)
    except (OutOfTime, KeyboardInterrupt):
        outcome.goes_on = True  # inconclusive, unless it was decided already
    return outcome


def _final(attempts: Sequence[Attempt], temperature: float) -> Attempt | None:
    """An attempt after which the run may not go on; its writer was killed there."""
    troubles = {str(trouble): trouble for trouble in Trouble}
    for attempt in attempts:
        trouble = troubles.get(attempt.outcome)
        if trouble is not None and not trouble.may_go_on(temperature=temperature):
            return attempt
    return None


def _conclude(outcome: _Outcome, reference: Reference, folder: Path) -> Conclusion:
    counted = outcome.progress.counted
    conclusion = conclude(
        reference.rule,
        outcome.progress.standing,
        did_not_run=outcome.no_answer or _unwritten(counted, reference.baseline),
        complaints=complaints(counted, reference.baseline) if counted else (),
    )
    said = _repeated(read_attempts(folder))
    return Conclusion(conclusion.verdict, (*conclusion.reasons, *said))


def _unwritten(counted: Sequence[AnswerLine], baseline: Baseline) -> str | None:
    """Of a chat model whose reasoning took the whole limit, again and again."""
    count = sum(line.finish_reason == LENGTH and not line.text for line in counted)
    if not too_many(count, len(counted), baseline.truncated, baseline):
        return None
    return (
        f"{count} of {len(counted)} answers have no content, only reasoning up to the "
        "output limit: no score"
    )


def _repeated(attempts: Sequence[Attempt]) -> list[str]:
    """One sentence on attempts that brought no answer, if there were any."""
    failed = Counter(a.outcome for a in attempts if a.outcome in set(Trouble))
    if not failed:
        return []
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(failed.items()))
    count = sum(failed.values())
    return [f"{count} of {len(attempts)} attempts brought no answer: {kinds}"]


def _endpoint(options: Options, task: Task) -> Endpoint:
    default = Api.CHAT if task.chat_template else Api.COMPLETIONS
    if not options.model:
        raise BadInput("--model: expected the name of a model, found none")
    return Endpoint(
        address=read_address(options.endpoint),
        key=key_from_environment(options.api_key_env),
        asked=Asked(
            api=options.api or default,
            model=options.model,
            sampling=Sampling(
                temperature=task.temperature,
                output_tokens=task.output_tokens,
                stops=task.stops,
                reasoning_effort=task.reasoning_effort,
            ),
        ),
        limits=options.limits,
        concurrency=whole(
            "concurrency", options.concurrency, at_least=1, at_most=_MOST_AT_ONCE
        ),
    )


def _facts(options: Options, address: Address) -> dict[str, object]:
    """What a run is of; how fast it is asked may change when it goes on."""
    return {
        # As `mxmoe compare` names what two runs are of.
        "candidate": f"{options.model} at {address.base}",
        "endpoint": address.base,
        "model": options.model,
        "task": options.task,
        "data": None if options.data is None else str(options.data),
        "reference": options.reference,
        "threshold": options.threshold,
        "api": options.api and str(options.api),
        "full": options.full,
    }
