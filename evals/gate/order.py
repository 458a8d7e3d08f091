"""In which order answers count: a fixed one, whatever order they finish in.

Wrong answers tend to be longer than right ones. Counted as they finish, the early
answers of a bad model are its good ones, and a sound test stopped on them passes it.
So the order is drawn before the first question is asked, and an answer waits until all
before it are there.
"""

from __future__ import annotations

import hashlib
from typing import Generic
from typing import TypeVar

from mxmoe.evals.gate.checked import whole
from mxmoe.reference.errors import BadInput

A = TypeVar("A")


def registered_order(asked: int, *, seed: int) -> tuple[int, ...]:
    """Questions 0..asked-1 in the order of SHA-256("seed/question").

    A hash, because a library may change its shuffle and this order is part of the
    protocol: the same on every machine and in every version.
    """
    whole("asked", asked, at_least=1)
    whole("seed", seed)
    return tuple(
        sorted(
            range(asked), key=lambda q: hashlib.sha256(f"{seed}/{q}".encode()).digest()
        )
    )


class InOrder(Generic[A]):
    """Takes answers as they finish and releases them in the registered order.

    Raises `BadInput` for an order that names a question twice, for an answer to a
    question that was not asked, and for a second answer to the same question: an
    answer that is replaced by a later one is a retry, and retries improve scores.
    """

    def __init__(self, order: tuple[int, ...]) -> None:
        self._order = order
        self._asked = frozenset(order)
        if len(self._asked) != len(order):
            raise BadInput(
                f"order: expected {len(order)} different questions, "
                f"found {len(self._asked)}"
            )
        self._finished: set[int] = set()
        self._waiting: dict[int, A] = {}
        self._released = 0

    def finish(self, question: int, answer: A) -> list[tuple[int, A]]:
        """What this answer sets free: (question, answer), in order, often nothing."""
        if question not in self._asked:
            raise BadInput(
                f"answer to question {question!r}: expected one of the "
                f"{len(self._order)} questions asked"
            )
        if question in self._finished:
            raise BadInput(
                f"answer to question {question}: expected one, found a second"
            )
        self._finished.add(question)
        self._waiting[question] = answer
        free: list[tuple[int, A]] = []
        for following in self._order[self._released :]:
            if following not in self._waiting:
                break
            free.append((following, self._waiting.pop(following)))
        self._released += len(free)
        return free

    @property
    def released(self) -> int:
        """How many answers were released: the longest finished prefix."""
        return self._released

    @property
    def waiting(self) -> tuple[int, ...]:
        """The questions that finished but wait for one before them, in order."""
        return tuple(q for q in self._order if q in self._waiting)

    @property
    def missing(self) -> tuple[int, ...]:
        """The questions without an answer, in order; the first holds the others up."""
        return tuple(q for q in self._order if q not in self._finished)
