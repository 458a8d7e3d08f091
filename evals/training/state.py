"""What a run needs to go on: parameters, AdamW's moments, step, and the plan.

Files stay below 16 MB, so that a machine that hands back small files only can return
them. They are safetensors and JSON: nothing is unpickled.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save_file

from mxmoe.evals.training.parameters import Parameters
from mxmoe.evals.training.plan import Plan
from mxmoe.evals.training.shape import ModelShape
from mxmoe.reference.errors import BadInput

_MOST_BYTES = 15 * 10**6
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class State:
    """A run after `step` steps; `seconds` of training went into it."""

    plan: Plan
    shape: ModelShape
    step: int
    seconds: float
    parameters: Parameters
    moments: dict[str, Parameters]


def save(state: State, folder: Path) -> None:
    """Write the state to `folder`, in the place of an older one."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors = {f"parameter/{n}": t for n, t in state.parameters.items()}
    for moment, values in state.moments.items():
        tensors |= {f"{moment}/{n}": t for n, t in values.items()}
    for number, part in enumerate(_parts(tensors), start=1):
        save_file(part, fresh / f"state-{number}.safetensors")
    described = {
        "step": state.step,
        "seconds": state.seconds,
        "plan": asdict(state.plan),
        "shape": asdict(state.shape),
        "order": list(state.parameters),
    }
    text = json.dumps(described, indent=2) + "\n"
    (fresh / "state.json").write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def load(folder: Path, device: torch.device) -> State:
    """The state in `folder`, on a device; `BadInput` if it is not one."""
    try:
        described = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        found: dict[str, Parameters] = {"parameter": {}}
        found |= {moment: {} for moment in _MOMENTS}
        for path in sorted(folder.glob("state-*.safetensors")):
            for name, tensor in load_file(path).items():
                kind, _, parameter = name.partition("/")
                found[kind][parameter] = tensor.to(device)
        # Files are sorted by name. The norm of all gradients is summed in the order of
        # the parameters, so that order is part of the state.
        order = described["order"]
        ordered = {k: {n: values[n] for n in order} for k, values in found.items()}
        return State(
            Plan(**described["plan"]),
            ModelShape(**described["shape"]),
            described["step"],
            described["seconds"],
            ordered.pop("parameter"),
            ordered,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder}: expected a saved run, found {error}") from error


def _parts(tensors: Parameters) -> list[Parameters]:
    parts: list[Parameters] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size + tensor.nbytes > _MOST_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    return parts
