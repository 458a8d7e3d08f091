"""Candidates of a run, each in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from hypothesis import settings as hypothesis_settings

from mxmoe.conformance.isolation.host import Host
from mxmoe.conformance.isolation.host import Losses
from mxmoe.conformance.isolation.judge import IsolatedSubject
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.reference.errors import BadInput


def child_plan(
    *,
    checkpoint_folder: Path,
    checkpoint_given: bool,
    layers: tuple[int, ...],
    device: str | None,
    isolate: bool | None,
    case: str | None = None,
    required_class: str | None = None,
    against: str | None = None,
    kept: Path | None = None,
) -> dict[str, Any]:
    """What every child of a run is told, in JSON's terms; see `child.main`."""
    return {
        "checkpoint_folder": str(checkpoint_folder),
        "checkpoint_given": checkpoint_given,
        "layers": list(layers),
        "device": device,
        "isolate": isolate,
        "case": case,
        "required_class": required_class,
        "against": against,
        "kept": None if kept is None else str(kept),
        "threads": torch.get_num_threads(),
        "profile": hypothesis_settings.get_current_profile_name(),
        "greet": True,
    }


def open_isolated(
    spec: str,
    plan: Mapping[str, Any],
    losses: Losses,
    *,
    call_seconds: float | None = None,
) -> IsolatedSubject:
    """Load `spec` in a child, and only when that went well here, for its claims.

    Raises `BadInput` where it does not load, cannot be called, or dies in that.
    """
    told = {**plan, "spec": spec, "call_seconds": call_seconds}
    host = Host(told, losses)
    try:
        hello = host.start()
        here = load_candidate(spec, device=plan["device"])
    except Failure as error:
        host.close()
        sentence = " ".join(line.strip() for line in error.text.splitlines())
        raise BadInput(
            f"{spec}: expected to load and a first call to succeed, found: {sentence}"
        ) from error
    except BaseException:
        host.close()
        raise
    if hello["unavailable"] is not None:
        host.end()
    values = {field.name: getattr(here, field.name) for field in fields(Subject)}
    return IsolatedSubject(**values, host=host, away=hello["unavailable"])
