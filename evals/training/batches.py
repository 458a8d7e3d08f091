"""Token batches: the batch of step n depends on the seed and n alone.

So a resumed run sees what an uninterrupted one sees, and worker processes can make
batches ahead of time. Problems are packed into rows; none sees its neighbours.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader
from torch.utils.data import Dataset

from mxmoe.evals.grade_school import tokenizer as task_tokenizer
from mxmoe.evals.grade_school.generate import problems
from mxmoe.evals.grade_school.problem import Problem

# The longest problem has about 180 tokens: what remains of a row is mostly filled by
# a shorter one.
ROW = 256
IGNORED = -100
# Problems among which the one that fills a row best is looked for.
_POOL = 16
# Problems tokenised at once.
_CHUNK = 64


@dataclass(frozen=True)
class Batch:
    """Integers [rows, ROW]: tokens, positions, problem in the row, next tokens.

    `targets` holds IGNORED where nothing is learned: in questions and behind the end.
    `segments` is -1 behind the last problem of a row.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
    targets: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on a device, in the integers that torch indexes with."""
        moved = (
            tensor.to(device, non_blocking=True).long()
            for tensor in (self.ids, self.positions, self.segments, self.targets)
        )
        return Batch(*moved)

    def visible(self) -> torch.Tensor:
        """bool [rows, ROW, ROW]: causal, within one problem."""
        same = self.segments[:, :, None] == self.segments[:, None, :]
        return same.tril()


class Batches(Dataset[Batch]):
    """The batches of a run by step."""

    def __init__(self, *, seed: int, rows: int, steps: int) -> None:
        self.seed, self.rows, self.steps = seed, rows, steps
        self._tokenizer: Tokenizer | None = None

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        if self._tokenizer is None:
            self._tokenizer = task_tokenizer.load()
        made = problems("train", f"{self.seed}/{step}")
        return pack(_tokenised(made, self._tokenizer), self.rows)

    def loader(self, *, start: int, workers: int) -> DataLoader[Batch]:
        """Batches from step `start` on, in order, made by `workers` processes."""
        # Each worker tokenises alone; the library's threads would not survive a fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        return DataLoader(
            self,
            batch_size=None,
            sampler=range(start, self.steps),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )


def _tokenised(
    made: Iterator[Problem], tokenizer: Tokenizer
) -> Iterator[tuple[list[int], int]]:
    """(tokens with the end token, length of the prompt) of each problem."""
    end = task_tokenizer.token_id(tokenizer, task_tokenizer.END)
    while True:
        chunk = list(itertools.islice(made, _CHUNK))
        prompts = tokenizer.encode_batch([p.prompt for p in chunk])
        completions = tokenizer.encode_batch([p.completion for p in chunk])
        for prompt, completion in zip(prompts, completions, strict=True):
            yield [*prompt.ids, *completion.ids, end], len(prompt.ids)


def pack(problems: Iterator[tuple[list[int], int]], rows: int) -> Batch:
    """Fill rows with whole problems, the longest that still fits first."""
    size = (rows, ROW)
    batch = Batch(
        torch.zeros(size, dtype=torch.int32),
        torch.zeros(size, dtype=torch.int32),
        torch.full(size, -1, dtype=torch.int32),
        torch.full(size, IGNORED, dtype=torch.int32),
    )
    pool = list(itertools.islice(problems, _POOL))
    for row in range(rows):
        at, segment = 0, 0
        while True:
            fitting = [n for n, (ids, _) in enumerate(pool) if at + len(ids) <= ROW]
            if not fitting:
                break
            best = max(fitting, key=lambda n: len(pool[n][0])) if at else fitting[0]
            ids, prompt = pool[best]
            pool[best] = next(problems)
            end = at + len(ids)
            tokens = torch.tensor(ids, dtype=torch.int32)
            batch.ids[row, at:end] = tokens
            batch.positions[row, at:end] = torch.arange(len(ids))
            batch.segments[row, at:end] = segment
            batch.targets[row, at + prompt - 1 : end - 1] = tokens[prompt:]
            at, segment = end, segment + 1
    return batch
