"""A task as an endpoint is asked it, and what of its protocol can be seen there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from functools import cache
from pathlib import Path

from mxmoe.evals.endpoint.address import Api
from mxmoe.evals.endpoint.asked import Asked
from mxmoe.evals.gate.protocol import Protocol
from mxmoe.evals.gate.protocol import prompt_hash
from mxmoe.evals.gate.reference import FOLDER
from mxmoe.evals.gate.reference import Reference
from mxmoe.evals.gate.reference import load_reference
from mxmoe.evals.gate.task import Task
from mxmoe.evals.gate.tasks import load_task
from mxmoe.evals.grade_school.task import NAME as GRADE_SCHOOL
from mxmoe.evals.grade_school.tokenizer import load as load_tokenizer
from mxmoe.reference.errors import BadInput


@dataclass(frozen=True)
class EndpointTask:
    """tokens : of each prompt as it is sent, None where the tokenizer is not known."""

    task: Task
    tokens: Sequence[int] | None

    @property
    def count(self) -> int:
        """How many questions."""
        return len(self.task.conversations)

    def prompt_sha256(self, question: int) -> str:
        """Of what is sent."""
        return prompt_hash(self.task.written(self.task.conversations[question]))

    def protocol(self, asked: Asked, *, model_sha256: str) -> Protocol:
        """What decides the score, as the requests say it.

        model_sha256 : of the weights that the reference names; an endpoint does not
        show which it has.
        """
        return replace(
            self.task.protocol(model_sha256),
            chat_template=asked.api is Api.CHAT,
            reasoning_effort=asked.sampling.reasoning_effort,
            temperature=asked.sampling.temperature,
            output_tokens=asked.sampling.output_tokens,
            stops=asked.sampling.stops,
        )


@cache
def load_endpoint_task(name: str, data: Path | None = None) -> EndpointTask:
    """The task `name`; `BadInput` as `load_task` raises it."""
    task = load_task(name, data)
    if name != GRADE_SCHOOL:
        return EndpointTask(task, None)
    prompts = [task.written(conversation) for conversation in task.conversations]
    encoded = load_tokenizer().encode_batch(prompts)
    return EndpointTask(task, [len(found.ids) for found in encoded])


def reference_at_endpoint(
    task: str, name: str | None, threshold: float | None
) -> Reference:
    """The entry `name`, or the only one of the task; `BadInput` where it is not clear.

    An endpoint does not show the shape of its model, so a task with several entries
    needs a name. threshold : percent, in the place of the entry's score; without a
    name healthy lengths are not known then.
    """
    names = [path.stem for path in sorted(FOLDER.glob("*.json"))]
    fitting = [n for n in names if load_reference(n).protocol.task == task]
    chosen = [n for n in fitting if name in (None, n)]
    if not chosen or (len(chosen) > 1 and threshold is None):
        raise BadInput(
            f"--reference: expected one of {', '.join(fitting) or 'none'} "
            f"for {task}, found {name!r:.80}"
        )
    entry = load_reference(chosen[0])
    if threshold is None:
        return entry
    lengths = entry.baseline.tokens if name else None
    healthy = replace(entry.baseline, tokens=lengths)
    return replace(entry, baseline=healthy, threshold=threshold)
