"""What ``run.json`` says about a session: who is judged, on what, how."""

from __future__ import annotations

import hashlib
from datetime import UTC
from datetime import datetime
from pathlib import Path
from typing import Any

from mxmoe.conformance.registry import source_file
from mxmoe.conformance.rundir import describe_machine
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.suite.session import Session


def session_facts(session: Session, *, command: str, **asked: Any) -> dict[str, Any]:
    """Facts for `RunWriter.describe` at the start of a run."""
    settings = session.settings
    given = settings.checkpoint_given
    return {
        "command": command,
        "started": now(),
        **describe_machine(),
        "candidates": [candidate_facts(subject) for subject in session.subjects],
        "checkpoint": {
            "folder": str(settings.checkpoint_folder) if given else None,
            "shape": settings.checkpoint.config.label(),
            "layers": list(settings.layers),
        },
        "options": {
            **asked,
            "case": None if settings.case is None else str(settings.case),
            "against": None if settings.against is None else settings.against.spec,
            "require_class": settings.required_class,
        },
    }


def candidate_facts(subject: Subject) -> dict[str, Any]:
    """Who a candidate is, and what it claims."""
    return {
        "name": subject.name,
        "spec": subject.spec,
        "arithmetic": subject.arithmetic.name,
        "execution": subject.capabilities.execution,
        "layout": subject.capabilities.layout,
        "device": str(subject.device),
        "unavailable": subject.unavailable(),
        "file_sha256": _digest(source_file(subject.spec)),
    }


def _digest(file: Path | None) -> str | None:
    """Which version of its file a candidate is."""
    try:
        return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
