"""A report as plain values: for ``report.json`` and inside of the page."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import fields
from dataclasses import is_dataclass
from typing import Any

from mxmoe.conformance.rundir import json_number
from mxmoe.evals.report.document import Report

SCHEMA = 1
# A picture's numbers and words say the same.
_LEFT_OUT = frozenset({"svg"})


def as_json(report: Report) -> dict[str, Any]:
    """Everything in it but the drawings; infinities are strings."""
    return {"schema": SCHEMA, "mark": str(report.mark), **_plain(report)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in fields(value)
            if field.name not in _LEFT_OUT
        }
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [_plain(one) for one in value]
    return json_number(value) if isinstance(value, float) else value
