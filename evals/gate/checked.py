"""Numbers and answers from outside, refused if they cannot be what they should be."""

from __future__ import annotations

import math

import numpy as np

from mxmoe.reference.errors import BadInput


def between(name: str, value: float, above: float, at_most: float) -> float:
    """`value` as a float if above < value <= at_most, else `BadInput`; NaN is not."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not above < number <= at_most:
        raise BadInput(
            f"{name}: expected a number above {above} and at most {at_most}, "
            f"found {value!r}"
        )
    return number


def whole(
    name: str, value: int, *, at_least: int = 0, at_most: int | None = None
) -> int:
    """`value` if it is an int in the range, else `BadInput`; a bool is not."""
    high = math.inf if at_most is None else at_most
    if type(value) is not int or not at_least <= value <= high:
        limit = f"at least {at_least}" if at_most is None else f"{at_least}..{at_most}"
        raise BadInput(f"{name}: expected a whole number, {limit}, found {value!r}")
    return value


def right_or_wrong(name: str, value: bool) -> bool:
    """`value` if it is a bool, else `BadInput`: a missing answer is not a score."""
    if not isinstance(value, bool | np.bool_):
        raise BadInput(f"{name}: expected correct or wrong, found {value!r}")
    return bool(value)
