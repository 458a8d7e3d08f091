"""One repetition of one check, in words: what another process or a bundle is given.

A check is a test function of `mxmoe.conformance.checks`. pytest repeats it over
`parametrize` marks and over places; both are named here by the words of their values.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mxmoe.conformance.settings import Settings
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.suite.check_files import check_modules
from mxmoe.reference.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """`check` at `parameters` (name, word of the value) and at the place of that id."""

    check: str
    parameters: tuple[tuple[str, str], ...] = ()
    place: str = ""


def find_check(name: str) -> Callable[..., None]:
    """The test function called `name`; `BadInput` if there is none."""
    for module in check_modules():
        function = vars(module).get(name)
        if name.startswith("test_") and callable(function):
            found: Callable[..., None] = function
            return found
    raise BadInput(f"check: expected the name of a check of the suite, found {name!r}")


def words_of(
    function: object, values: Mapping[str, Any]
) -> tuple[tuple[str, str], ...]:
    """The words of those of `values` that `parametrize` marks of `function` name."""
    names = [name for name, _ in _parametrized(function)]
    return tuple((name, str(values[name])) for name in names if name in values)


def arguments_of(
    repetition: Repetition, subject: Subject, settings: Settings
) -> dict[str, Any]:
    """What the check is called with besides the judge; `BadInput` for unknown words."""
    function = find_check(repetition.check)
    given = dict(repetition.parameters)
    arguments = {}
    for name, values in _parametrized(function):
        by_word = {str(value): value for value in values}
        arguments[name] = _pick(name, given.get(name, ""), by_word)
    if hasattr(function, "places"):
        places = function.places(settings, subject)
        by_id = {place.id: place.value for place in places}
        arguments["place"] = _pick("place", repetition.place, by_id)
    return arguments


def _parametrized(function: object) -> list[tuple[str, list[Any]]]:
    marks = getattr(function, "pytestmark", [])
    return [
        (mark.args[0], list(mark.args[1]))
        for mark in marks
        if mark.name == "parametrize"
    ]


def _pick(name: str, word: str, values: Mapping[str, Any]) -> Any:
    if word not in values:
        known = ", ".join(list(values)[:8])
        raise BadInput(f"{name}: expected one of {known}, found {word!r:.80}")
    return values[word]
