"""Prompts of a wanted length in the server's own tokens, each different."""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
from random import Random

from mxmoe.reference.errors import BadInput

# Short words, most of them one token with the space before them in any vocabulary, and
# some that are two, to reach a length in between.
WORDS = tuple(
    [
        "the",
        "of",
        "and",
        "to",
        "in",
        "is",
        "was",
        "for",
        "on",
        "that",
        "with",
        "at",
        "by",
        "from",
        "he",
        "she",
        "it",
        "his",
        "her",
        "they",
        "we",
        "are",
        "be",
        "this",
        "have",
        "not",
        "but",
        "had",
        "one",
        "all",
        "were",
        "when",
        "there",
        "can",
        "more",
        "if",
        "no",
        "man",
        "out",
        "other",
        "so",
        "time",
        "up",
        "go",
        "about",
        "than",
        "into",
        "could",
        "state",
        "only",
        "new",
        "year",
        "some",
        "take",
        "come",
        "these",
        "know",
        "see",
        "use",
        "get",
        "like",
        "then",
        "first",
        "any",
        "work",
        "now",
        "may",
        "such",
        "give",
        "over",
        "think",
        "most",
        "even",
        "find",
        "day",
        "also",
        "after",
        "way",
        "many",
        "must",
        "look",
        "before",
        "great",
        "back",
        "through",
        "long",
        "where",
        "much",
        "should",
        "well",
        "people",
        "down",
        "own",
        "just",
        "because",
        "good",
        "each",
        "those",
        "feel",
        "seem",
        "how",
        "high",
        "too",
        "place",
        "little",
        "world",
        "very",
        "still",
        "nation",
        "hand",
        "old",
        "life",
        "tell",
        "write",
        "become",
        "here",
        "show",
        "house",
        "both",
        "river",
        "garden",
        "winter",
        "candle",
        "lantern",
        "quarry",
        "meadow",
        "harbour",
        "orchard",
        "thistle",
    ]
)
_OPENING = "Write a long story. Use these words in it:"
# A word adds a token or a few, so a straight line through two lengths is close; the
# rest is single words.
_MOST_TRIES = 24

Count = Callable[[str], Awaitable[int]]


def prompt_of(words: Sequence[str], *, seed: int) -> str:
    """A prompt with these words in an order of its own.

    Another order has as many tokens where words are split at spaces, and shares no
    prefix that a server could have kept from the request before.
    """
    return " ".join([_OPENING, *Random(seed).sample(words, len(words))])


async def words_of_length(tokens: int, count: Count) -> list[str]:
    """The words whose prompt (seed 0) the server counts as `tokens` tokens.

    count : asks the server for the tokens of a prompt. Raises `BadInput` where no
    number of words has that length.
    """
    words = _cycle(max(0, tokens - len(_OPENING.split())))
    seen: dict[int, int] = {}
    for attempt in range(_MOST_TRIES):
        found = await count(prompt_of(words, seed=0))
        if found == tokens:
            return words
        seen[len(words)] = found
        words = _next(words, seen, tokens, attempt)
    near = sorted(seen.values(), key=lambda length: abs(length - tokens))[:2]
    raise BadInput(
        f"--isl: expected a prompt that the server counts as {tokens} tokens, found "
        f"{' and '.join(map(str, near))} after {_MOST_TRIES} tries"
    )


def _next(
    words: list[str], seen: dict[int, int], tokens: int, attempt: int
) -> list[str]:
    """More or fewer words; where one word more is too many, another last word."""
    have = len(words)
    missing = tokens - seen[have]
    step = round(missing / _slope(seen)) or (1 if missing > 0 else -1)
    wanted = max(0, have + step)
    if wanted in seen:
        return [*words[:-1], WORDS[(attempt * 7 + 3) % len(WORDS)]]
    return _cycle(wanted)


def _slope(seen: dict[int, int]) -> float:
    """Tokens a word, through the shortest and the longest prompt that was counted."""
    low, high = min(seen), max(seen)
    if low == high:
        return 1.0
    return max(0.25, (seen[high] - seen[low]) / (high - low))


def _cycle(count: int) -> list[str]:
    return [WORDS[number % len(WORDS)] for number in range(count)]
