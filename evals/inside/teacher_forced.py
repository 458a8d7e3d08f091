"""What a model would have said at every token of the right answer.

Nothing is sampled, so nothing is lost to chance: a fault that moves the logits a little
shows here long before it changes an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.evals.inside.load import Loaded


@dataclass(frozen=True, kw_only=True)
class Forced:
    """One question under teacher forcing.

    index : of the question. logprobs : ln p of each token of its answer, the end token
    included. top : the most likely token at each of these places.
    """

    index: int
    logprobs: tuple[float, ...]
    top: tuple[int, ...]


def force(
    loaded: Loaded, pairs: Sequence[tuple[str, str]], *, batch: int
) -> Iterator[Forced]:
    """Each (prompt, answer), `batch` at a time, those of similar length together.

    Raises `Failure` (nonfinite) at NaN or infinite logits.
    """
    encoded = [_encode(loaded, *pair) for pair in pairs]
    order = sorted(range(len(pairs)), key=lambda n: -len(encoded[n][0]))
    for first in range(0, len(order), batch):
        part = order[first : first + batch]
        yield from _force(loaded, part, [encoded[n] for n in part])


def _encode(loaded: Loaded, prompt: str, answer: str) -> tuple[list[int], int]:
    """The tokens of both, and how many are the prompt's."""
    ids: Any = loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    more = loaded.tokenizer(answer, add_special_tokens=False)["input_ids"]
    return [*ids, *more, loaded.end_tokens[0]], len(ids)


@torch.inference_mode()
def _force(
    loaded: Loaded, part: list[int], encoded: list[tuple[list[int], int]]
) -> list[Forced]:
    device = loaded.model.get_input_embeddings().weight.device
    width = max(len(ids) for ids, _ in encoded)
    pad = loaded.end_tokens[0]  # masked: any token does
    ids = [[pad] * (width - len(found)) + found for found, _ in encoded]
    mask = [[0] * (width - len(found)) + [1] * len(found) for found, _ in encoded]
    inputs = torch.tensor(ids, device=device)
    attention = torch.tensor(mask, device=device)
    # The last token predicts nothing; of the first half of a prompt no logits are kept.
    kept = max(len(found) - start for found, start in encoded) + 1
    logits = loaded.model(
        input_ids=inputs,
        attention_mask=attention,
        position_ids=(attention.cumsum(dim=1) - 1).clamp(min=0),
        logits_to_keep=kept,
    ).logits
    found = []
    for row, (index, (tokens, start)) in enumerate(zip(part, encoded, strict=True)):
        count = len(tokens) - start
        said = logits[row, -count - 1 : -1].float()
        if not bool(said.isfinite().all()):
            raise Failure(
                Verdict.NONFINITE,
                "logits: expected finite ones, found NaN or infinity in the answer to "
                f"question {index}",
            )
        right = inputs[row, -count:, None]
        logprobs = said.double().log_softmax(dim=1).gather(1, right)[:, 0]
        top = said.argmax(dim=1)
        found.append(
            Forced(
                index=index,
                logprobs=tuple(logprobs.tolist()),
                top=tuple(top.tolist()),
            )
        )
    return found
