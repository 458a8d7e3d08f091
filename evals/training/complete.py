"""Greedy completions of many prompts at once, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer

from mxmoe.evals.grade_school import tokenizer as task_tokenizer
from mxmoe.evals.grade_school.answers import LONGEST_ANSWER
from mxmoe.evals.grade_school.answers import count_correct
from mxmoe.evals.grade_school.problem import Problem
from mxmoe.evals.training.forward import Cache
from mxmoe.evals.training.forward import forward
from mxmoe.evals.training.parameters import Parameters
from mxmoe.evals.training.shape import ModelShape


@torch.inference_mode()
def complete(
    parameters: Parameters,
    shape: ModelShape,
    prompts: Sequence[str],
    *,
    batch: int,
    longest: int = LONGEST_ANSWER,
) -> list[str]:
    """What the model writes after each prompt, up to the end token.

    parameters : as `forward` takes them. Prompts of similar length run together,
    padded on the left; answers come in the order of the prompts.
    """
    tokenizer = task_tokenizer.load()
    encoded = [tokenizer.encode(prompt).ids for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda n: -len(encoded[n]))
    texts = [""] * len(prompts)
    for first in range(0, len(order), batch):
        part = order[first : first + batch]
        written = _complete_batch(
            parameters, shape, [encoded[n] for n in part], tokenizer, longest
        )
        for n, ids in zip(part, written, strict=True):
            texts[n] = tokenizer.decode(ids, skip_special_tokens=True)
    return texts


def _complete_batch(
    parameters: Parameters,
    shape: ModelShape,
    prompts: list[list[int]],
    tokenizer: Tokenizer,
    longest: int,
) -> list[list[int]]:
    end = task_tokenizer.token_id(tokenizer, task_tokenizer.END)
    embedding = parameters["model.embed_tokens.weight"]
    device, b, width = embedding.device, len(prompts), max(map(len, prompts))
    padded = [[end] * (width - len(ids)) + ids for ids in prompts]
    ids = torch.tensor(padded, device=device)
    pads = torch.tensor([width - len(ids) for ids in prompts], device=device)
    at = torch.arange(width + longest, device=device)
    real = at >= pads[:, None]
    positions = (at - pads[:, None]).clamp(min=0)
    cache = _empty_cache(parameters, shape, b, width + longest)
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    visible = causal & real[:, None, :width]
    now, done = positions[:, :width], torch.zeros(b, dtype=torch.bool, device=device)
    written: list[torch.Tensor] = []
    for length in range(width, width + longest):
        logits = forward(parameters, shape, ids, now, visible, cache).logits[:, -1]
        cache.length = length
        token = logits.argmax(dim=-1).masked_fill(done, end)
        written.append(token)
        done = done | (token == end)
        # Asking the device costs more than a few needless tokens.
        if length % 8 == 0 and bool(done.all()):
            break
        ids, now = token[:, None], positions[:, length : length + 1]
        visible = real[:, None, : length + 1]
    rows = torch.stack(written, dim=1).tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]


def _empty_cache(
    parameters: Parameters, shape: ModelShape, b: int, longest: int
) -> Cache:
    embedding = parameters["model.embed_tokens.weight"]
    dtype = (
        torch.get_autocast_dtype(embedding.device.type)
        if torch.is_autocast_enabled(embedding.device.type)
        else embedding.dtype
    )
    size = (shape.layers, b, shape.kv_heads, longest, shape.head_dim)
    keys = torch.zeros(size, dtype=dtype, device=embedding.device)
    return Cache(keys, torch.zeros_like(keys))


def accuracy(
    parameters: Parameters,
    shape: ModelShape,
    problems: Sequence[Problem],
    *,
    batch: int,
) -> float:
    """Share of the problems whose greedy answer is correct."""
    prompts = [problem.prompt for problem in problems]
    texts = complete(parameters, shape, prompts, batch=batch)
    return count_correct(problems, texts) / len(problems)
