"""Machine-made mutants: one or two edits, drawn at random, of a correct source.

What is edited is index, rounding and routing code: `SCOPE` of our plain candidate, or
every function of the file of another candidate.
"""

from __future__ import annotations

import ast
import itertools
import random
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mxmoe.conformance.faults import plain
from mxmoe.conformance.faults.edits import Edit
from mxmoe.conformance.faults.edits import apply_edits
from mxmoe.conformance.faults.edits import edits_of
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.registry import DEFAULT_ATTRIBUTE
from mxmoe.conformance.registry import entry_points
from mxmoe.conformance.registry import source_file
from mxmoe.conformance.subject import Subject
from mxmoe.reference.errors import BadInput

SCOPE = (
    *("_E2M1", "dequantize", "pack", "product", "add_down_bias", "swiglu", "mix"),
    *("route", "Plain.high", "Plain.between", "Plain.prepare"),
    *("Plain.trace", "Plain.expert", "Plain.forward_fused"),
)


@dataclass(frozen=True)
class Source:
    """A file with a correct candidate, and what of it is edited."""

    path: Path
    attribute: str
    functions: tuple[str, ...]

    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.path.read_text(encoding="utf-8"))

    def edits(self) -> list[Edit]:
        """Every one-step edit."""
        return list(_edits(self))


@cache
def _edits(source: Source) -> tuple[Edit, ...]:
    return tuple(edits_of(source.tree(), source.functions))


PLAIN_SOURCE = Source(Path(plain.__file__), "PLAIN", SCOPE)


def source_of(spec: str) -> Source:
    """All functions and methods of the file of a loaded candidate."""
    path = source_file(spec)
    if path is None or not path.is_file():
        raise BadInput(f"{spec}: expected a candidate in a Python file, found none")
    entry = entry_points().get(spec)
    attribute = spec.partition(":")[2] if entry is None else entry.attr
    names = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [m for m in node.body if isinstance(m, ast.FunctionDef)]
            names += [f"{node.name}.{m.name}" for m in methods]
    return Source(path, attribute or DEFAULT_ATTRIBUTE, tuple(names))


@dataclass(frozen=True)
class Mutant:
    """`source` with one or two edits."""

    source: Source
    edits: tuple[Edit, ...]

    def __str__(self) -> str:
        return " ; ".join(map(str, self.edits))

    def subject(self) -> Subject:
        """The candidate that the edited file holds; raises what importing it raises."""
        module = types.ModuleType("mxmoe_mutant")
        module.__file__ = str(self.source.path)
        tree = apply_edits(self.source.tree(), self.edits)
        # Dataclasses look their module up.
        sys.modules[module.__name__] = module
        exec(compile(tree, str(self.source.path), "exec"), vars(module))
        found: Any = getattr(module, self.source.attribute)
        return subject_of(found, f"mutant:{self}")


def draw_mutants(source: Source, count: int, seed: int) -> Iterator[Mutant]:
    """`count` different ones, every second with two edits; repeatable by `seed`."""
    chosen, edits = random.Random(seed), source.edits()
    seen: set[tuple[Edit, ...]] = set()
    for number in itertools.count():
        pair = tuple(chosen.sample(edits, 1 + number % 2))
        if pair not in seen:
            seen.add(pair)
            yield Mutant(source, pair)
        if len(seen) == count or number > 100 * count:
            return
