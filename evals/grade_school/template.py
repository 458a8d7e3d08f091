"""A template: sentences with blanks, ranges of numbers, and steps that are computed.

Blanks of the sentences: {A} {B} {C} three names; {he} {his} {him} {He} for A;
{thing}/{things} and {other}/{others} two nouns; {box}/{boxes}; {friend}/{friends};
{place}; {day} and {day2}; and every number by its name. "||" separates alternatives.

A step holds one computation in brackets, "[x=a+b]": it is written as GSM8K writes it,
"4 + 3 = <<4+3=7>>7", and x can be used in later steps. "[$x=a*b]" writes money. The
last result is the answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from functools import cached_property

from mxmoe.evals.grade_school import words
from mxmoe.reference.errors import BadInput

# The largest number that may appear; three digits are what a small model learns.
LARGEST = 999
_COMPUTATION = re.compile(r"\[(\$?)([a-z]\w*)=([^\]]+)\]")
_TERM = re.compile(r"[a-z]\w*|\d+|[-+*/]")
_ADDITIVE, _MULTIPLICATIVE = frozenset("+-"), frozenset("*/")


@dataclass(frozen=True)
class Step:
    """One line of the answer: `before`, then a computation, then `after`."""

    before: str
    after: str
    money: bool
    result: str
    operands: tuple[str, ...]
    operators: tuple[str, ...]

    def compute(self, values: Mapping[str, int]) -> int | None:
        """The result, or None if it is not an integer from 1 to `LARGEST`."""
        total = self._value(self.operands[0], values)
        for operator, name in zip(self.operators, self.operands[1:], strict=True):
            operand = self._value(name, values)
            if operator == "+":
                total += operand
            elif operator == "-":
                total -= operand
            elif operator == "*":
                total *= operand
            else:
                total, rest = divmod(total, operand)
                if rest:
                    return None
            if not 1 <= total <= LARGEST:
                return None
        return total

    def write(self, values: Mapping[str, int]) -> str:
        """The computation in GSM8K's form, its result included."""
        numbers = [str(self._value(name, values)) for name in self.operands]
        spaced, tight = numbers[0], numbers[0]
        for operator, number in zip(self.operators, numbers[1:], strict=True):
            spaced += f" {operator} {number}"
            tight += operator + number
        result = values[self.result]
        dollar = "$" if self.money else ""
        return f"{spaced} = {dollar}<<{tight}={result}>>{result}"

    @staticmethod
    def _value(name: str, values: Mapping[str, int]) -> int:
        return int(name) if name.isdigit() else values[name]


def parse_step(text: str) -> Step:
    """The step that `text` describes, or `BadInput` for what is not one."""
    found = _COMPUTATION.search(text)
    if found is None:
        raise BadInput(f"step: expected one [x=a+b], found {text!r}")
    terms = _TERM.findall(found[3])
    operands, operators = tuple(terms[0::2]), tuple(terms[1::2])
    one_kind = any(set(operators) <= k for k in (_ADDITIVE, _MULTIPLICATIVE))
    if "".join(terms) != found[3] or not operators or not one_kind:
        raise BadInput(
            f"step: expected a sum or a product of names, found {found[3]!r}"
        )
    before, after = text[: found.start()], text[found.end() :]
    return Step(before, after, bool(found[1]), found[2], operands, operators)


@dataclass(frozen=True)
class Template:
    """One kind of problem.

    numbers : name -> (lowest, highest) or (lowest, highest, multiple of), drawn.
    derived : name -> product or sum of earlier names, computed ("t": "n*p"), so that
    a division comes out even. free_order : the story's sentences may come in any order.
    """

    name: str
    story: tuple[str, ...]
    question: str
    answer: tuple[str, ...]
    numbers: Mapping[str, tuple[int, ...]]
    derived: Mapping[str, str] = field(default_factory=dict)
    free_order: bool = False

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The parsed lines of the answer."""
        return tuple(parse_step(text) for text in self.answer)

    @cached_property
    def derivations(self) -> tuple[Step, ...]:
        """The computed numbers, as steps that nobody writes down."""
        return tuple(parse_step(f"[{n}={e}]") for n, e in self.derived.items())

    def draw(self, source: random.Random) -> dict[str, int] | None:
        """Numbers and results by name, or None where a result does not fit."""
        values = {name: _draw(source, limits) for name, limits in self.numbers.items()}
        for step in (*self.derivations, *self.steps):
            result = step.compute(values)
            if result is None:
                return None
            values[step.result] = result
        return values

    def key(self, values: Mapping[str, int]) -> tuple[int, ...]:
        """The drawn numbers, in the order of `numbers`: what train and test divide."""
        return tuple(values[name] for name in self.numbers)

    def write(
        self, values: Mapping[str, int], source: random.Random
    ) -> tuple[str, str]:
        """(question, answer) with words drawn from `source`."""
        blanks: dict[str, object] = {**_words(source), **values}
        story = list(self.story)
        if self.free_order:
            story = [story[n] for n in _distinct(source, len(story), len(story))]
        sentences = [_pick(source, text) for text in (*story, self.question)]
        question = " ".join(sentences).format_map(blanks)
        lines = [
            step.before.format_map(blanks)
            + step.write(values)
            + step.after.format_map(blanks)
            for step in self.steps
        ]
        lines.append(f"#### {values[self.steps[-1].result]}")
        return question, "\n".join(lines)


def _draw(source: random.Random, limits: tuple[int, ...]) -> int:
    lowest, highest, multiple = limits if len(limits) == 3 else (*limits, 1)
    span = (highest - lowest) // multiple + 1
    return lowest + multiple * _below(source, span)


def _below(source: random.Random, bound: int) -> int:
    # `random()` is the one method whose values Python promises to keep.
    return int(source.random() * bound)


def _pick(source: random.Random, text: str) -> str:
    choices = text.split("||")
    return choices[_below(source, len(choices))]


def _words(source: random.Random) -> dict[str, str]:
    names = _distinct(source, len(words.NAMES), 3)
    (a, (he, his, him)), (b, _), (c, _) = (words.NAMES[n] for n in names)
    first, second = (words.THINGS[n] for n in _distinct(source, len(words.THINGS), 2))
    box = words.CONTAINERS[_below(source, len(words.CONTAINERS))]
    group = words.GROUPS[_below(source, len(words.GROUPS))]
    days = _distinct(source, len(words.DAYS), 2)
    return {
        **{"A": a, "B": b, "C": c, "he": he, "his": his, "him": him},
        **{"He": he.capitalize(), "thing": first[0], "things": first[1]},
        **{"other": second[0], "others": second[1], "box": box[0], "boxes": box[1]},
        **{"friend": group[0], "friends": group[1]},
        "place": words.PLACES[_below(source, len(words.PLACES))],
        "day": words.DAYS[days[0]],
        "day2": words.DAYS[days[1]],
    }


def _distinct(source: random.Random, bound: int, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        number = _below(source, bound)
        if number not in found:
            found.append(number)
    return found
