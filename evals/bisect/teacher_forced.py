"""How far a model is from the reference on right answers that it is made to read.

No sampling: every token of the right answer is given, and what is compared is the
distribution of the next one. One pass, and it sees what answers do not show yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mxmoe.conformance.verdict import Failure
from mxmoe.evals.grade_school.problem import Problem
from mxmoe.evals.inside.load import Loaded


@dataclass(frozen=True, kw_only=True)
class Distance:
    """divergence : mean Kullback-Leibler divergence of the reference's distribution
    from the model's, in nats a token; infinite where the model is not finite. loss :
    mean negative log-likelihood of the right tokens, in nats.
    """

    divergence: float
    loss: float


@dataclass(frozen=True, eq=False)
class Exercise:
    """Problems with their answers as one padded batch, and the reference's opinion.

    ids, mask : int64 [problems, n]. answer : bool [problems, n - 1], whether the next
    token belongs to the answer. wanted : float64 [answer tokens, vocabulary], the
    reference's log-probabilities.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    answer: torch.Tensor
    wanted: torch.Tensor

    @property
    def tokens(self) -> int:
        """Tokens that are judged."""
        return int(self.answer.sum())

    def distance(self, loaded: Loaded) -> Distance:
        """Of `loaded` as it is now; infinite if its experts fail."""
        try:
            found = _log_probabilities(loaded, self.ids, self.mask, self.answer)
        except Failure:
            return Distance(divergence=math.inf, loss=math.inf)
        if not found.isfinite().all():
            return Distance(divergence=math.inf, loss=math.inf)
        per_token = (self.wanted.exp() * (self.wanted - found)).sum(dim=1)
        # Rounding can take a divergence of nothing below zero.
        return Distance(
            divergence=max(0.0, float(per_token.mean())), loss=self._loss(found)
        )

    def _loss(self, found: torch.Tensor) -> float:
        right = self.ids[:, 1:][self.answer]
        return -float(found.gather(1, right[:, None]).mean())


def make_exercise(
    loaded: Loaded,
    problems: Sequence[Problem],
    reference: Callable[[], None],
) -> Exercise:
    """Tokenise `problems` and ask the reference, which `reference` puts in place."""
    tokenizer, device = loaded.tokenizer, loaded.model.device
    end = loaded.end_tokens[0]
    prompts = [tokenizer(p.prompt)["input_ids"] for p in problems]
    answers = [
        [*tokenizer(p.completion, add_special_tokens=False)["input_ids"], end]
        for p in problems
    ]
    width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((len(problems), width), end, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    answer = torch.zeros(len(problems), width - 1, dtype=torch.bool)
    for row, (prompt, said) in enumerate(zip(prompts, answers, strict=True)):
        whole = len(prompt) + len(said)
        ids[row, :whole] = torch.tensor([*prompt, *said])
        mask[row, :whole] = 1
        answer[row, len(prompt) - 1 : whole - 1] = True
    ids, mask, answer = (x.to(device) for x in (ids, mask, answer))
    reference()
    return Exercise(ids, mask, answer, _log_probabilities(loaded, ids, mask, answer))


@torch.inference_mode()
def _log_probabilities(
    loaded: Loaded, ids: torch.Tensor, mask: torch.Tensor, answer: torch.Tensor
) -> torch.Tensor:
    """float64 [answer tokens, vocabulary]."""
    logits = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits[:, :-1][answer].double().log_softmax(dim=-1)
