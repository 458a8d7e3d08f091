"""A task as an endpoint sees it: prompts, how an answer is graded, what is known."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from mxmoe.evals.endpoint.address import Api
from mxmoe.evals.endpoint.asked import Asked
from mxmoe.evals.gate.protocol import Protocol
from mxmoe.evals.gate.protocol import prompts_hash
from mxmoe.evals.grade_school.answers import extract
from mxmoe.evals.grade_school.answers import is_correct
from mxmoe.evals.grade_school.frozen import load_test_problems
from mxmoe.evals.grade_school.tokenizer import load as load_tokenizer
from mxmoe.reference.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class EndpointTask:
    """Questions to send.

    prompts : by question. grade : (question, text) -> (extracted, correct). tokens :
    of each prompt as it is sent, None where the model's tokenizer is not known.
    extraction : its name in the protocol.
    """

    name: str
    version: str
    few_shots: int
    extraction: str
    prompts: Sequence[str]
    grade: Callable[[int, str], tuple[str, bool]]
    tokens: Sequence[int] | None

    def protocol(self, asked: Asked, *, order_seed: int, model_sha256: str) -> Protocol:
        """What decides the score, read from the requests themselves.

        model_sha256 : of the weights that the reference names; an endpoint does not
        show which it has.
        """
        return Protocol(
            task=self.name,
            task_version=self.version,
            model_sha256=model_sha256,
            questions=len(self.prompts),
            prompts_sha256=prompts_hash(self.prompts),
            order_seed=order_seed,
            few_shots=self.few_shots,
            chat_template=asked.api is Api.CHAT,
            reasoning_effort=asked.sampling.reasoning_effort,
            temperature=asked.sampling.temperature,
            output_tokens=asked.sampling.output_tokens,
            stops=asked.sampling.stops,
            extraction=self.extraction,
            harness="mxmoe",
        )


def _grade_school() -> EndpointTask:
    problems = load_test_problems()
    tokenizer = load_tokenizer()
    prompts = [problem.prompt for problem in problems]

    def grade(question: int, text: str) -> tuple[str, bool]:
        return extract(text), is_correct(problems[question], text)

    return EndpointTask(
        name="grade_school",
        version="1",
        few_shots=0,
        extraction="strict-match",
        prompts=prompts,
        grade=grade,
        tokens=[len(found.ids) for found in tokenizer.encode_batch(prompts)],
    )


_TASKS = {"grade_school": _grade_school}


@cache
def load_task(name: str) -> EndpointTask:
    """The task `name`; `BadInput` for one that cannot be asked at an endpoint."""
    if name not in _TASKS:
        raise BadInput(
            f"--task: expected one of {', '.join(sorted(_TASKS))} with --endpoint, "
            f"found {name!r}"
        )
    return _TASKS[name]()
