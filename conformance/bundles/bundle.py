"""A bundle: everything that repeats one failure, data only.

    case.json               the check, its parameters and place, the case, what was said
    tensors.safetensors     what the failure is about: found, expected, allowed, ...
    inputs.safetensors      weights, hidden states and routing that the case had

Inputs of many megabytes (a layer of a large checkpoint) are not kept; the bundle says
so, and a replay reads them from the checkpoint again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mxmoe.conformance.bundles.repetitions import Repetition
from mxmoe.conformance.bundles.repetitions import find_check
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.kept_inputs import BYTES
from mxmoe.conformance.cases.kept_inputs import CASE
from mxmoe.conformance.cases.kept_inputs import LAYER
from mxmoe.conformance.cases.kept_inputs import KeptInputs
from mxmoe.conformance.cases.kept_inputs import Source
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.rundir import SCHEMA
from mxmoe.conformance.rundir import json_number
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.checkpoint import Checkpoint
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import Activation
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing

# Two experts of gpt-oss are 26 MB, a layer of gpt-oss-20b 420 MB.
LARGEST_INPUTS = 2**26
_WEIGHTS = "weights."


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle, read back."""

    folder: Path
    spec: str
    repetition: Repetition
    case: str | None
    verdict: Verdict
    text: str
    device: str | None
    isolate: bool | None
    against: str | None
    checkpoint_folder: str | None
    layers: tuple[int, ...]
    kept: KeptInputs | None
    inputs_left_out: bool


def write_bundle(judge: Judge) -> str | None:
    """Write the judge's last failure into its run; the bundle's path in the run."""
    run = judge.settings.run
    if run is None or judge.record.evidence is None:
        return None
    facts, tensors = judge.record.evidence
    given = facts.get("inputs")
    facts = {**facts, **_surroundings(judge)}
    if not isinstance(given, dict):
        return run.bundle(facts, tensors)
    source = Source(**given)
    config, nbytes = _size(judge, source)
    facts |= {"inputs": {**given, "config": _described(config)}}
    if nbytes > LARGEST_INPUTS:
        facts["inputs_left_out"] = True
        return run.bundle(facts, tensors)
    return run.bundle(
        facts,
        tensors,
        inputs_key=(judge.subject.name, source.kind, source.word),
        inputs=lambda: _inputs(judge, source),
    )


def _surroundings(judge: Judge) -> dict[str, object]:
    settings = judge.settings
    given = settings.checkpoint_given
    return {
        "device": settings.device,
        "isolate": settings.isolate,
        "against": None if settings.against is None else settings.against.spec,
        "layers": list(settings.layers),
        "checkpoint": str(settings.checkpoint_folder) if given else None,
        "checkpoint_config": _described(settings.checkpoint.config),
        "checkpoint_layers": settings.checkpoint.layers,
    }


def _size(judge: Judge, source: Source) -> tuple[MoEConfig, int]:
    """The shape of the inputs, and about how many bytes their weights have."""
    case = None if source.kind == LAYER else parse_case(source.word)
    own = None if case is None else case.config
    config = own or judge.settings.checkpoint.config
    elements = 3 * config.experts * config.hidden * config.intermediate
    return config, elements * 17 // 32


def _inputs(judge: Judge, source: Source) -> dict[str, torch.Tensor]:
    """Built once more, so that they are what the candidate was given, untouched."""
    if source.kind == LAYER:
        return _named(judge.layer_weights(int(source.word))[1])
    case = parse_case(source.word)
    if source.kind == BYTES:
        return _named(judge.raw_bytes(case)[1])
    data = judge.data(case)
    return _named(data.weights) | {
        "hidden_states": data.hidden_states,
        "routing.ids": data.routing.ids,
        "routing.weights": data.routing.weights,
    }


def _named(weights: ExpertWeights) -> dict[str, torch.Tensor]:
    return {f"{_WEIGHTS}{name}": t for name, t in weights.tensors().items()}


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle; `BadInput` with one sentence if it is none, or damaged."""
    path = folder / "case.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{folder}: expected a bundle, found no case.json") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: expected JSON, found {error}") from error
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        found = facts.get("schema") if isinstance(facts, dict) else type(facts).__name__
        raise BadInput(f"{path}: expected schema {SCHEMA}, found {found!r:.80}")
    try:
        return _bundle(folder, facts)
    except BadInput as error:
        raise BadInput(f"{folder}: {error}") from error
    except KeyError as error:
        raise BadInput(f"{path}: expected a field {error}, found none") from error
    except (TypeError, ValueError, AttributeError, AssertionError) as error:
        raise BadInput(f"{path}: expected a bundle, found {error}") from error


def _bundle(folder: Path, facts: Mapping[str, Any]) -> Bundle:
    for name in ("candidate", "check", "place", "text"):
        if not isinstance(facts[name], str):
            raise BadInput(f"{name}: expected a text, found {facts[name]!r:.80}")
    find_check(facts["check"])
    if facts["case"] is not None:
        parse_case(facts["case"])
    repetition = Repetition(
        check=facts["check"],
        parameters=tuple((str(n), str(w)) for n, w in facts["parameters"].items()),
        place=facts["place"],
    )
    return Bundle(
        folder=folder,
        spec=facts["candidate"],
        repetition=repetition,
        case=facts["case"],
        verdict=Verdict(facts["verdict"]),
        text=facts["text"],
        device=facts["device"],
        isolate=facts["isolate"],
        against=facts["against"],
        checkpoint_folder=facts["checkpoint"],
        layers=tuple(int(layer) for layer in facts["layers"]),
        kept=_kept(folder, facts),
        inputs_left_out=bool(facts.get("inputs_left_out")),
    )


def _kept(folder: Path, facts: Mapping[str, Any]) -> KeptInputs | None:
    path = folder / "inputs.safetensors"
    if facts["inputs"] is None or facts.get("inputs_left_out"):
        return None
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"{path.name}: expected a whole safetensors file, found {error}"
        ) from error
    found = facts["inputs"]
    source = Source(found["kind"], found["word"])
    if source.kind not in (CASE, BYTES, LAYER):
        raise BadInput(f"inputs: expected a case, bytes or a layer, found {source}")
    names = ExpertWeights.__dataclass_fields__
    weights = ExpertWeights(**{n: tensors.get(_WEIGHTS + n) for n in names})
    config = _config(found["config"])
    weights.check(config)
    checkpoint = Checkpoint(
        folder=Path(facts["checkpoint"] or "default"),
        config=_config(facts["checkpoint_config"]),
        layers=int(facts["checkpoint_layers"]),
        files={},
        spelling={},
    )
    if source.kind != CASE:
        return KeptInputs(source=source, weights=weights, checkpoint=checkpoint)
    tokens = parse_case(source.word).tokens
    shapes = {
        "hidden_states": (tokens, config.hidden),
        "routing.ids": (tokens, config.top_k),
        "routing.weights": (tokens, config.top_k),
    }
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape:
            raise BadInput(f"{path.name}: expected a tensor {name} {list(shape)}")
    return KeptInputs(
        source=source,
        weights=weights,
        checkpoint=checkpoint,
        hidden_states=tensors["hidden_states"],
        routing=Routing(tensors["routing.ids"], tensors["routing.weights"]),
    )


def _described(config: MoEConfig) -> dict[str, Any]:
    found = asdict(config)
    numbers = found["activation"]
    found["activation"] = {
        name: json_number(value) if isinstance(value, float) else value
        for name, value in numbers.items()
    }
    return found


def _config(found: Mapping[str, Any]) -> MoEConfig:
    given = found["activation"]
    numbers = {name: float(given[name]) for name in ("alpha", "beta", "limit")}
    return MoEConfig(
        **{**found, "activation": Activation(name=given["name"], **numbers)}
    )
