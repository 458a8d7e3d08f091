"""Of which planted faults the suite must name the cause: `Fault.says` has the words.

`tests/test_conformance_faults.py` demands these words of each fault's failure. A fault
that shows in bytes has a cause that can always be named. Of those that show in numbers
only, a few leave too little to tell one cause from another.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mxmoe.conformance.faults.fault import Fault

FEWEST_NAMED = 0.8
"""Of the faults that show in numbers only, the part whose cause must be named."""

PLACE_ONLY: Mapping[str, str] = MappingProxyType(
    {
        "lanes_rounded_down": (
            "in the smallest case a rank is left without lanes, which is told as a K "
            "block that is dropped; the bytes tell it (`lanes_rounded_down_in_prepare`)"
        ),
        "last_element_wrong": "one number is what many faults leave",
        "noise_on_one_token": "noise has no cause: the token and the size are told",
        "nondeterministic": (
            "which sum has no order does not show in what differs by a last bit"
        ),
        "rarely_nondeterministic": (
            "which sum has no order does not show in one last bit"
        ),
        "tactic_args_swapped": "an empty list of tactics does not say why it is empty",
    }
)
"""Faults of which the suite tells what is wrong and where, and no cause: why not."""


def shows_in_bytes(fault: Fault) -> bool:
    """Whether a check of bytes or of the codec must find it, and no sum is made."""
    return fault.level in ("L0", "L1") or "bytes" in fault.check


def names_cause(fault: Fault) -> bool:
    """Whether its failure must name the cause, not only what is wrong and where."""
    return bool(fault.says) and fault.name not in PLACE_ONLY
