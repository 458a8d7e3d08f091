"""What every rank is told: one JSON file, so that no object crosses the border."""

from __future__ import annotations

import json
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path

PLAN_NAME = "plan.json"
LAYER_STEP = "mxmoe.conformance.ranks.layer_step:layer_step"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The cases that a group of `world` processes computes, in order.

    spec, device : the candidate, as `registry.load_candidate` takes it. cases : words
    that `parse_case` reads, each naming a group of `world` ranks. checkpoint : where
    ``layer0/...`` cases have their weights. layer_steps : for each case, as
    ``module:function``, what puts partial sum, all-reduce and residual together.
    call_seconds : the limit of one call into the candidate. parent : the process
    without which the ranks end.
    """

    world: int
    spec: str
    device: str
    cases: tuple[str, ...]
    checkpoint: str
    call_seconds: float
    parent: int
    layer_steps: tuple[str, ...]


def write_plan(folder: Path, plan: Plan) -> None:
    """Leave `plan` in the folder that the ranks share."""
    (folder / PLAN_NAME).write_text(json.dumps(asdict(plan)), encoding="utf-8")


def read_plan(folder: Path) -> Plan:
    """The inverse of `write_plan`."""
    fields = json.loads((folder / PLAN_NAME).read_text(encoding="utf-8"))
    lists = {name: tuple(fields[name]) for name in ("cases", "layer_steps")}
    return Plan(**fields | lists)


def result_path(folder: Path, case: int, rank: int) -> Path:
    """Where `rank` leaves the tensors ``partial`` and ``out`` of a case."""
    return folder / f"case{case}.rank{rank}.safetensors"
