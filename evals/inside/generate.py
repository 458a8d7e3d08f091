"""Greedy answers to many prompts, as they end.

transformers' `generate` runs a batch until its last row ends; here rows that have ended
leave it every few tokens. The cache grows (`DynamicCache`): a static one pays nothing
without a compiled graph, as attention then runs over its whole length.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

import torch
from transformers import DynamicCache

from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.evals.inside.load import Loaded

STOP, LENGTH = "stop", "length"
# Tokens between looks at which rows have ended: a look waits for a GPU, and one that
# finds some copies the cache.
_LOOK_EVERY = 8


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model wrote after prompt `index`.

    text : without special tokens, up to a stop string. tokens : as written, without
    the end token, with those of a stop string. finish_reason : "stop" at an end token
    or a stop string, "length" if none came.
    """

    index: int
    text: str
    tokens: tuple[int, ...]
    finish_reason: str


@dataclass(kw_only=True, eq=False)
class _Rows:
    """The rows of a batch that have not left it.

    index [b], the prompts; ids [b, w], the next input; mask [b, n], 1 for a token and
    0 for padding, the next input included; written [b, longest]; length [b], tokens
    written up to the end, -1 while it has not come; finite [b], all logits of the
    answer so far.
    """

    index: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    written: torch.Tensor
    length: torch.Tensor
    finite: torch.Tensor
    cache: Any

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all but the rows of an index."""
        # Layers may lie on several devices; an index on the CPU fits all of them.
        self.cache.batch_select_indices(rows.cpu())
        for name in ("index", "ids", "mask", "written", "length", "finite"):
            setattr(self, name, getattr(self, name)[rows])


def answers(
    loaded: Loaded,
    prompts: Sequence[str],
    *,
    batch: int,
    longest: int,
    stops: Sequence[str] = (),
    numbers: Sequence[int] | None = None,
) -> Iterator[Answer]:
    """Complete every prompt with at most `longest` tokens; each answer as it ends.

    stops : strings that end an answer, as an end token does. Prompts are taken as they
    are, no token is put before them. numbers : what messages call the prompts by;
    default: their indices.
    Prompts of similar length run together, `batch` at a time, the longest first, padded
    on the left. Raises `Failure` (nonfinite) at NaN or infinite logits.
    """
    encoded = [
        loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        for prompt in prompts
    ]
    order = sorted(range(len(prompts)), key=lambda n: -len(encoded[n]))
    for first in range(0, len(order), batch):
        part = order[first : first + batch]
        rows = _start(loaded, part, [encoded[n] for n in part], longest)
        for done in range(0, longest, _LOOK_EVERY):
            stop = min(done + _LOOK_EVERY, longest)
            _advance(loaded, rows, range(done, stop))
            _refuse_nonfinite(rows, numbers or range(len(prompts)))
            _end_at(loaded, rows, stops, written=stop)
            for answer in _leave(loaded, rows, written=stop):
                yield replace(answer, text=before_stop(answer.text, stops))
            if not len(rows.index):
                break


def _start(
    loaded: Loaded, part: list[int], prompts: list[list[int]], longest: int
) -> _Rows:
    device = loaded.model.get_input_embeddings().weight.device
    b, width = len(part), max(map(len, prompts))
    # Padding is masked: any token does.
    pad = loaded.end_tokens[0]
    ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return _Rows(
        index=torch.tensor(part, device=device),
        ids=torch.tensor(ids, device=device),
        mask=torch.tensor(mask, device=device),
        written=torch.full((b, longest), pad, device=device),
        length=torch.full((b,), -1, device=device),
        finite=torch.ones(b, dtype=torch.bool, device=device),
        cache=DynamicCache(config=loaded.model.config),
    )


@torch.inference_mode()
def _advance(loaded: Loaded, rows: _Rows, steps: range) -> None:
    ends = torch.tensor(loaded.end_tokens, device=rows.ids.device)
    for step in steps:
        positions = (rows.mask.cumsum(dim=1) - 1).clamp(min=0)
        logits = loaded.model(
            input_ids=rows.ids,
            attention_mask=rows.mask,
            position_ids=positions[:, -rows.ids.shape[1] :],
            past_key_values=rows.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        running = rows.length < 0
        rows.finite = rows.finite & (logits.isfinite().all(dim=1) | ~running)
        token = logits.argmax(dim=1)
        ended = running & (token[:, None] == ends).any(dim=1)
        rows.length = torch.where(ended, step, rows.length)
        rows.written[:, step] = token
        rows.ids = token[:, None]
        rows.mask = torch.nn.functional.pad(rows.mask, (0, 1), value=1)


def _refuse_nonfinite(rows: _Rows, numbers: Sequence[int]) -> None:
    if bool(rows.finite.all()):
        return
    bad = rows.index[~rows.finite]
    raise Failure(
        Verdict.NONFINITE,
        f"logits: expected finite ones, found NaN or infinity in {len(bad)} of "
        f"{len(rows.index)} answers, prompt {numbers[int(bad.min())]} among them",
    )


def before_stop(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of the strings, or all of it."""
    return text[: min((text.find(s) for s in stops if s in text), default=None)]


@torch.inference_mode()
def _end_at(loaded: Loaded, rows: _Rows, stops: Sequence[str], *, written: int) -> None:
    """Set the length of rows whose text holds a stop string, end tokens or not."""
    if not stops:
        return
    # A token of byte-level BPE has a byte or more, so that a string that ended since
    # the last look began at most so many tokens ago.
    reach = _LOOK_EVERY + max(len(stop.encode()) for stop in stops)
    first = max(0, written - reach)
    for row in range(len(rows.index)):
        length = int(rows.length[row])
        tokens = rows.written[row, first : written if length < 0 else length].tolist()
        if not _holds(loaded, tokens, stops):
            continue
        counts = range(1, len(tokens) + 1)
        ended = next(n for n in counts if _holds(loaded, tokens[:n], stops))
        rows.length[row] = first + ended


def _holds(loaded: Loaded, tokens: list[int], stops: Sequence[str]) -> bool:
    text = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
    return any(stop in text for stop in stops)


@torch.inference_mode()
def _leave(loaded: Loaded, rows: _Rows, *, written: int) -> list[Answer]:
    """The answers that have ended, or all at the limit; their rows leave the batch."""
    alive = (rows.length < 0) & (written < rows.written.shape[1])
    found = []
    for row in (~alive).nonzero().flatten().tolist():
        length = int(rows.length[row])
        tokens = rows.written[row].tolist()
        answer = tokens if length < 0 else tokens[:length]
        found.append(
            Answer(
                index=int(rows.index[row]),
                text=loaded.tokenizer.decode(answer, skip_special_tokens=True),
                tokens=tuple(answer),
                finish_reason=LENGTH if length < 0 else STOP,
            )
        )
    if found:
        rows.keep(alive.nonzero().flatten())
    return found
