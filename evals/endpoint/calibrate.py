"""Prompts of a wanted length in the server's own tokens, each different."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
from itertools import cycle
from random import Random

from mxmoe.reference.errors import BadInput

# Short words, most of them one token with the space before them in any vocabulary.
_TEXT = """
the of and to in is was for on that with at by from he she it his her they we are be
this have not but had one all were when there can more if no man out other so time
up go about than into could state only new year some take come these know see use
get like then first any work now may such give over think most even find day also
after way many must look before great back through long where much should well
people down own just because good each those feel seem how high too place little
world very still nation hand old life tell write become here show house both river
garden winter candle lantern quarry meadow harbour orchard thistle
"""
WORDS = tuple(_TEXT.split())
_OPENING = "Write a long story. Use these words in it:"
# Added one by one at the end: a token each in most vocabularies, or two.
_FILLERS = ("the", "and", "a", "to", "thistle", "lantern", "harbour")
_NEAR = 6  # tokens; then single words are quicker
_MOST_TRIES = 16  # of each of the two ways

Count = Callable[[str], Awaitable[int]]


def prompt_of(words: Sequence[str], *, seed: int) -> str:
    """A prompt with these words in an order of its own.

    Another order has as many tokens where words are split at spaces, and shares no
    prefix that a server could have kept from the request before.
    """
    return " ".join([_OPENING, *Random(seed).sample(words, len(words))])


async def words_of_length(tokens: int, count: Count) -> list[str]:
    """The words whose prompt the server counts as `tokens` tokens.

    count : asks the server for the tokens of a prompt. Raises `BadInput` where no
    words that were tried have that length.
    """
    words, found = await _nearly(tokens, count)
    fillers = cycle(_FILLERS)
    filler = next(fillers)
    for _ in range(_MOST_TRIES):
        if found >= tokens:
            break
        longer = await count(prompt_of([*words, filler], seed=0))
        if longer <= tokens:
            words, found = [*words, filler], longer
        else:
            filler = next(fillers)
    if found != tokens:
        raise BadInput(
            f"--isl: expected a prompt that the server counts as {tokens} tokens, "
            f"found none, the closest has {found}"
        )
    return words


async def _nearly(tokens: int, count: Count) -> tuple[list[str], int]:
    """Words of at most so many tokens, and their number; of more if none has less."""
    seen: dict[int, int] = {}
    wanted = max(0, tokens - len(_OPENING.split()))
    while wanted not in seen and len(seen) < _MOST_TRIES:
        have = wanted
        seen[have] = await count(prompt_of(_many(have), seed=0))
        missing = tokens - seen[have]
        if 0 <= missing <= _NEAR:
            break
        wanted = max(0, have + math.floor(missing / _slope(seen)))
    short = [number for number, length in seen.items() if length <= tokens]
    best = max(short) if short else min(seen)
    return _many(best), seen[best]


def _slope(seen: dict[int, int]) -> float:
    """Tokens a word, through the shortest and the longest prompt that was counted."""
    low, high = min(seen), max(seen)
    if low == high:
        return 1.0
    return max(0.25, (seen[high] - seen[low]) / (high - low))


def _many(count: int) -> list[str]:
    return [WORDS[number % len(WORDS)] for number in range(count)]
