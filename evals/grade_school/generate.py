"""Problems from a seed, in three splits that share no template with its numbers.

The split of a problem is a hash of its template's name and its drawn numbers, in the
template's order: remainder 0 of 16 is `test`, 1 is `validation`, all others `train`.
So no combination of template and numbers is in two splits, whatever the names, nouns
and sentences around it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from mxmoe.evals.grade_school import four_steps
from mxmoe.evals.grade_school import one_step
from mxmoe.evals.grade_school import three_steps
from mxmoe.evals.grade_school import two_steps
from mxmoe.evals.grade_school.problem import Problem
from mxmoe.evals.grade_school.template import Template
from mxmoe.reference.errors import BadInput

TEMPLATES: tuple[Template, ...] = (
    *one_step.TEMPLATES,
    *two_steps.TEMPLATES,
    *three_steps.TEMPLATES,
    *four_steps.TEMPLATES,
)
SPLITS = ("test", "validation", "train")
_BUCKETS = 16


def split_of(template: Template, key: tuple[int, ...]) -> str:
    """The split to which a template with these drawn numbers belongs."""
    text = f"{template.name}|{','.join(map(str, key))}"
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return SPLITS[min(int.from_bytes(digest, "big") % _BUCKETS, 2)]


def draw_one(
    template: Template, split: str, source: random.Random
) -> tuple[tuple[int, ...], Problem]:
    """(drawn numbers, problem) of one template in one split."""
    while True:
        values = template.draw(source)
        if values is None or split_of(template, template.key(values)) != split:
            continue
        question, answer = template.write(values, source)
        return template.key(values), Problem(question, answer)


def problems(split: str, seed: int | str) -> Iterator[Problem]:
    """Endless problems of `split`; the same for the same seed, on every machine."""
    if split not in SPLITS:
        raise BadInput(f"split: expected one of {', '.join(SPLITS)}, found {split!r}")
    source = random.Random(f"grade_school {split} {seed}")
    while True:
        template = TEMPLATES[int(source.random() * len(TEMPLATES))]
        yield draw_one(template, split, source)[1]


def frozen_problems(count: int, seed: int | str) -> list[Problem]:
    """`count` problems of the split `test`; all templates in turn, no numbers twice."""
    source = random.Random(f"grade_school frozen {seed}")
    seen: set[tuple[str, tuple[int, ...]]] = set()
    found: list[Problem] = []
    while len(found) < count:
        template = TEMPLATES[len(found) % len(TEMPLATES)]
        key, problem = draw_one(template, "test", source)
        if (template.name, key) not in seen:
            seen.add((template.name, key))
            found.append(problem)
    return found
